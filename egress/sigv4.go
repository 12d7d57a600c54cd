package egress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/execgate/execgate/execution"
)

// maxSigned is the largest body that is held to be signed, in bytes.
const maxSigned = 1 << 20

const (
	hashHeader      = "X-Amz-Content-Sha256"
	unsignedPayload = "UNSIGNED-PAYLOAD"
	// unsignedChunks is what SDKs say of a body in chunks that has its checksum in a
	// trailer within, signed by nobody.
	unsignedChunks = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
)

var awsRegion = regexp.MustCompile(`^[a-z]{2,3}(-[a-z]+)+-[0-9]$`)

// sign signs a request with AWS Signature Version 4, in place of what the program has
// signed it with. A body is hashed, up to maxSigned; a larger one of S3 goes unsigned,
// as S3 allows within TLS.
func sign(ctx context.Context, out *http.Request, bind execution.Binding, fields map[string]execution.Secret, at time.Time) (values []string, code string) {
	service, region, ok := awsScope(bind, out.URL.Hostname())
	if !ok {
		return nil, codeBindingInvalid
	}
	keys := aws.Credentials{AccessKeyID: fields["access_key"].Reveal(), SecretAccessKey: fields["secret_key"].Reveal()}
	// The id names the key and opens nothing: it stands in the clear in each signature, and
	// answers that list keys or have signed links would be false without it.
	values = []string{keys.SecretAccessKey}
	for _, name := range []string{"security_token", "session_token"} {
		if v := fields[name].Reveal(); v != "" && keys.SessionToken == "" {
			keys.SessionToken, values = v, append(values, v)
		}
	}
	if !sendable(keys.AccessKeyID) || !sendable(keys.SecretAccessKey) || keys.SessionToken != "" && !sendable(keys.SessionToken) {
		return nil, codeBadCredential
	}
	declared := out.Header.Get(hashHeader)
	for _, name := range []string{"Authorization", "X-Amz-Date", "X-Amz-Security-Token", hashHeader, "Date"} {
		removeForms(out.Header, name)
	}
	if code := dropPresigned(out); code != "" {
		return nil, code
	}
	hash, code := hashBody(out, service, declared)
	if code != "" {
		return nil, code
	}
	out.Header.Set(hashHeader, hash)
	err := v4.NewSigner(func(o *v4.SignerOptions) {
		o.DisableURIPathEscaping = service == "s3" || service == "s3express"
	}).SignHTTP(ctx, keys, out, hash, service, region, at)
	if err != nil {
		return nil, codeBadCredential
	}
	return values, ""
}

// dropPresigned deletes a signature that is in the query.
func dropPresigned(out *http.Request) string {
	var kept []string
	for part := range strings.SplitSeq(out.URL.RawQuery, "&") {
		switch {
		case strings.Contains(part, ";"):
			return codeQueryInvalid
		case part != "" && !strings.HasPrefix(strings.ToLower(unescapeAll(part)), "x-amz-"):
			kept = append(kept, part)
		}
	}
	out.URL.RawQuery = strings.Join(kept, "&")
	return ""
}

// hashBody returns what is signed of the body. A body that was read is put back.
func hashBody(out *http.Request, service, declared string) (hash, code string) {
	switch {
	case declared == unsignedChunks:
		return declared, ""
	case strings.HasPrefix(declared, "STREAMING-"): // its chunks have signatures by a key that is none
		return "", codeUnsigned
	case service == "s3" && (declared == unsignedPayload || out.ContentLength > maxSigned || out.ContentLength < 0) && out.URL.Scheme == "https":
		return unsignedPayload, ""
	case out.ContentLength > maxSigned:
		return "", codeUnsigned
	}
	var body []byte
	if out.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(out.Body, maxSigned+1)); err != nil {
			return "", codeBodyInvalid
		}
	}
	if len(body) > maxSigned {
		return "", codeUnsigned
	}
	if len(body) > 0 {
		out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	} else {
		out.Body, out.ContentLength = http.NoBody, 0
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:]), ""
}

// awsScope returns what a signature is for: what the binding's name says, as
// "service/region", or what the host does.
func awsScope(bind execution.Binding, host string) (service, region string, ok bool) {
	if bind.Name != "" {
		service, region, ok = strings.Cut(bind.Name, "/")
		return service, region, ok && isToken(service) && isToken(region)
	}
	for _, suffix := range []string{".amazonaws.com", ".amazonaws.com.cn", ".api.aws"} {
		name, is := strings.CutSuffix(host, suffix)
		if !is {
			continue
		}
		labels := strings.Split(name, ".")
		last := len(labels) - 1
		if !awsRegion.MatchString(labels[last]) {
			return labels[last], "us-east-1", true // the global endpoints
		}
		if last == 0 {
			return "", "", false
		}
		return labels[last-1], labels[last], true
	}
	return "", "", false
}
