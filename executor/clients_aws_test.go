package executor_test

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/execgate/execgate/execution"
)

// usesSDK uses the SDK of node as its own documentation does, with keys that are none, and then
// looks for the real ones wherever a program can: they have the form of the decoys, which
// show that it would find them.
const usesSDK = `cat >use.js <<'JS'
const { S3Client, GetObjectCommand, ListObjectsV2Command, PutObjectCommand } = require('@aws-sdk/client-s3');
const { Readable } = require('stream');
const s3 = new S3Client({
  region: 'eu-west-1', endpoint: 'https://s3.example:PORT', forcePathStyle: true,
  credentials: { accessKeyId: 'placeholder', secretAccessKey: 'placeholder', sessionToken: 'placeholder' },
});
const fs = require('fs');
const where = { Bucket: 'bucket', Key: 'a folder/ü+~(1).txt' };
(async () => {
  await s3.send(new PutObjectCommand({ ...where, Body: 'text' }));
  const text = await (await s3.send(new GetObjectCommand(where))).Body.transformToString();
  await s3.send(new PutObjectCommand({ ...where, Body: Readable.from([Buffer.from('a stream')]), ContentLength: 8 }));
  const stream = await (await s3.send(new GetObjectCommand(where))).Body.transformToString();
  const listed = await s3.send(new ListObjectsV2Command({ Bucket: 'bucket', Prefix: 'a folder/', Delimiter: '/' }));
  console.log([text, stream, ...listed.Contents.map((object) => object.Key)].join('|'));

  process.env.DECOY = ['EXAMPLE', 'd'.repeat(32)].join('-');
  const kept = Buffer.from(['EXAMPLE', 'e'.repeat(32)].join('-')); // in memory alone
  const found = new Set();
  const look = (text) => { for (const key of text.match(/EXAMPLE-[0-9a-f]{32}/g) || []) found.add(key); };
  look(Object.values(process.env).join('\n'));
  const files = (folder) => { for (const entry of fs.readdirSync(folder, { withFileTypes: true })) {
    const path = folder + '/' + entry.name;
    if (entry.isDirectory()) files(path); else if (entry.isFile()) look(fs.readFileSync(path, 'latin1'));
  } };
  ['/workspace', '/tmp', '/dev/shm'].forEach(files);
  for (const process of fs.readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))) {
    for (const name of ['environ', 'cmdline']) {
      try { look(fs.readFileSync('/proc/' + process + '/' + name, 'latin1')); } catch {}
    }
  }
  let memory = 0;
  const own = fs.openSync('/proc/self/mem');
  for (const line of fs.readFileSync('/proc/self/maps', 'latin1').split('\n')) {
    const region = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
    if (!region) continue;
    const begin = BigInt('0x' + region[1]), end = BigInt('0x' + region[2]);
    const part = Buffer.alloc(1 << 20);
    for (let at = begin; at < end; at += BigInt(part.length)) {
      try {
        const size = fs.readSync(own, part, 0, Number(end - at < part.length ? end - at : part.length), at);
        memory += size;
        look(part.latin1Slice(0, size));
      } catch { break; }
    }
  }
  console.log([...found].sort().join(' '), kept.length, memory > 10 << 20);
})().catch((error) => { console.log(error.name); });
JS
node use.js
`

// usesBoto does the first half of that in Python.
const usesBoto = `python3 - <<'PY'
import boto3, botocore.exceptions, io
s3 = boto3.client(
    's3', region_name='eu-west-1', endpoint_url='https://s3.example:PORT', config=boto3.session.Config(s3={'addressing_style': 'path'}),
    aws_access_key_id='placeholder', aws_secret_access_key='placeholder', aws_session_token='placeholder',
)
where = {'Bucket': 'another', 'Key': 'a folder/ü+~(1).txt'}
try:
    s3.put_object(**where, Body='text')
    text = s3.get_object(**where)['Body'].read().decode()
    s3.upload_fileobj(io.BytesIO(b'a stream'), where['Bucket'], where['Key'])
    stream = s3.get_object(**where)['Body'].read().decode()
    print('|'.join([text, stream] + [object['Key'] for object in s3.list_objects_v2(Bucket='another', Prefix='a folder/')['Contents']]))
except botocore.exceptions.ClientError as e: print(e.response['Error']['Code'])
PY
`

// An SDK that signs signs with keys that are none; the gateway signs anew, and the
// destination finds the real signature. The real keys never are in the sandbox.
func TestSDKThatSigns(t *testing.T) {
	t.Parallel()
	bucket := newBucket(t)
	o := newOutside(t, bucket)
	o.loans = map[string]execution.Secret{
		"access_key": execution.NewSecret(bucket.access), "secret_key": execution.NewSecret(bucket.secret), "security_token": execution.NewSecret(bucket.token),
	}
	hosts := []string{"s3.example"}
	bound := execution.Credential{Tool: "bucket", Inject: execution.InjectEgress, Bind: []execution.Binding{{Host: hosts[0], Port: o.port, Mode: "sigv4", Name: "s3/eu-west-1"}}}
	const done = "text|a stream|a folder/ü+~(1).txt"
	underEach(t, func(t *testing.T, runtime string) {
		for name, c := range map[string]struct{ script, want string }{
			"of node":   {usesSDK, done + "\nEXAMPLE-" + strings.Repeat("d", 32) + " EXAMPLE-" + strings.Repeat("e", 32) + " 40 true"},
			"of Python": {usesBoto, done},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if out := o.bash(t, runtime, c.script, hosts, bound); out != c.want {
					t.Errorf("got\n%s\nwant\n%s", out, c.want)
				}
				if out := o.bash(t, runtime, c.script, hosts); out != "SignatureDoesNotMatch" {
					t.Errorf("with keys that are none: %s", out)
				}
			})
		}
	})
}

// bucket is a store of objects that takes only what is signed with its keys, as AWS has
// it: docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html. It answers
// with the token that it was sent, where it can.
type bucket struct {
	t                     *testing.T
	access, secret, token string

	mu      sync.Mutex
	objects map[string][]byte // by path, as it was sent
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{t: t, objects: map[string][]byte{}}
	for _, key := range []*string{&b.access, &b.secret, &b.token} {
		random := make([]byte, 16)
		rand.Read(random)
		*key = "EXAMPLE-" + hex.EncodeToString(random)
	}
	return b
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Error(err)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("X-Reflected", r.Header.Get("X-Amz-Security-Token"))
	if err := b.verify(r, body); err != nil {
		b.t.Logf("%s %s: %v", r.Method, r.RequestURI, err)
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<Error><Code>SignatureDoesNotMatch</Code><Message>The signature is not of these keys.</Message></Error>`)
		return
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		if r.Header.Get("X-Amz-Content-Sha256") == "STREAMING-UNSIGNED-PAYLOAD-TRAILER" {
			body = firstChunk(string(body))
		}
		b.objects[path] = body
	case r.URL.Query().Get("list-type") == "2":
		fmt.Fprint(w, `<ListBucketResult>`)
		for stored := range b.objects {
			if key, ok := strings.CutPrefix(stored, strings.TrimSuffix(path, "/")+"/"); ok {
				key, err := url.PathUnescape(key)
				if err != nil {
					b.t.Error(err)
				}
				fmt.Fprintf(w, `<Contents><Key>%s</Key></Contents>`, key)
			}
		}
		fmt.Fprint(w, `</ListBucketResult>`)
	default:
		w.Write(b.objects[path])
	}
}

// firstChunk is what a body in AWS's chunks has in its first one.
func firstChunk(body string) []byte {
	head, rest, _ := strings.Cut(body, "\r\n")
	var size int
	fmt.Sscanf(head, "%x", &size)
	return []byte(rest[:min(size, len(rest))])
}

// verify computes the signature of a request from its keys, and says what is wrong.
func (b *bucket) verify(r *http.Request, body []byte) error {
	var access, day, region, service, names, signature string
	header := strings.NewReplacer("/", " ", ",", " ").Replace(r.Header.Get("Authorization"))
	if _, err := fmt.Sscanf(header, "AWS4-HMAC-SHA256 Credential=%s %s %s %s aws4_request  SignedHeaders=%s  Signature=%s", &access, &day, &region, &service, &names, &signature); err != nil {
		return fmt.Errorf("%q: %w", header, err)
	}
	if access != b.access || r.Header.Get("X-Amz-Security-Token") != b.token {
		return fmt.Errorf("keys of %q", access)
	}
	hash := r.Header.Get("X-Amz-Content-Sha256")
	if sum := sha256.Sum256(body); hash != "UNSIGNED-PAYLOAD" && !strings.HasPrefix(hash, "STREAMING-") && hash != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the body has not the hash %s", hash)
	}
	path, query, _ := strings.Cut(r.RequestURI, "?")
	parameters := strings.Split(query, "&")
	for i, p := range parameters {
		if p != "" && !strings.Contains(p, "=") {
			parameters[i] += "="
		}
	}
	slices.Sort(parameters)
	canonical := r.Method + "\n" + path + "\n" + strings.Join(parameters, "&") + "\n"
	for name := range strings.SplitSeq(names, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		canonical += name + ":" + strings.Join(strings.Fields(value), " ") + "\n"
	}
	canonical += "\n" + names + "\n" + hash
	scope := strings.Join([]string{day, region, service, "aws4_request"}, "/")
	digest := sha256.Sum256([]byte(canonical))
	key := []byte("AWS4" + b.secret)
	for _, part := range []string{day, region, service, "aws4_request", "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(digest[:])} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(key)), []byte(signature)) {
		return fmt.Errorf("another signature, of\n%s", canonical)
	}
	return nil
}
