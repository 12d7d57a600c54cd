package scrub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

const benchBytes = 1 << 20

// corpora are the texts that are measured, 1 MiB of each. None has a secret in it.
func corpora(secrets []string) map[string][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, benchBytes)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	var document, log, near bytes.Buffer
	encoder := json.NewEncoder(&document)
	words := strings.Fields(`the program reads a line of "text" and prints what it has found there: naïve paths like C:\temp or https://example.com/a?b=c&d=%20 <b>too</b>`)
	for document.Len() < benchBytes {
		encoder.Encode(map[string]any{"id": random.Uint64(), "name": words[random.IntN(len(words))], "text": strings.Join(words[random.IntN(9):], " "), "ok": true, "score": random.Float64()})
	}
	for i := 0; log.Len() < benchBytes; i++ {
		fmt.Fprintf(&log, "2026-03-04T12:%02d:%02d.%06dZ INFO request_id=%016x method=GET path=/v1/items/%d status=200 duration_ms=%d msg=%q\n",
			i/60%60, i%60, random.IntN(1e6), random.Uint64(), random.IntN(1e6), random.IntN(900), "the item was found")
	}
	for i := 0; near.Len() < benchBytes; i++ {
		secret := secrets[i%len(secrets)]
		near.WriteString(encoders[i%len(encoders)](secret[:len(secret)-1]))
	}
	return map[string][]byte{
		"random": noise,
		"json":   document.Bytes()[:benchBytes],
		"log":    log.Bytes()[:benchBytes],
		"base64": []byte(wrapped(base64.StdEncoding.EncodeToString(noise), 76, "\n"))[:benchBytes],
		"near":   near.Bytes()[:benchBytes],
	}
}

// secretsFor returns n secrets as Vault and others make them.
func secretsFor(n int) []string {
	random := rand.New(rand.NewPCG(3, 4))
	secrets := make([]string, n)
	for i := range secrets {
		raw := make([]byte, 24)
		for j := range raw {
			raw[j] = byte(random.Uint32())
		}
		secrets[i] = "hvs." + base64.StdEncoding.EncodeToString(raw)
	}
	return secrets
}

// processor measures by the processor's time what a benchmark of so many bytes does:
// on a machine that others use, too, it tells more than the clock does.
func processor(b *testing.B, size int) (report func()) {
	b.SetBytes(int64(size))
	used := func() int64 {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return usage.Utime.Nano() + usage.Stime.Nano()
	}
	before := used()
	return func() {
		time := float64(used()-before) / float64(b.N)
		if b.ReportMetric(time, "cpu-ns/op"); size > 0 {
			b.ReportMetric(float64(size)*1e3/time, "cpu-MB/s")
		}
	}
}

var corpusNames = []string{"random", "json", "log", "base64", "near"}

// BenchmarkWriter is a stream in writes of 32 KiB. The text "near" is made of the
// beginnings of secrets, in every encoding, which are all but complete.
func BenchmarkWriter(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		secrets := secretsFor(n)
		set, texts := newSet(b, secrets...), corpora(secrets)
		for _, name := range corpusNames {
			b.Run(fmt.Sprintf("%s/secrets=%d", name, n), func(b *testing.B) {
				text := texts[name]
				defer processor(b, len(text))()
				w := NewWriter(io.Discard, set)
				for b.Loop() {
					for i := 0; i < len(text); i += 32 << 10 {
						w.Write(text[i : i+32<<10])
					}
				}
			})
		}
	}
}

// BenchmarkBaseline is what the standard library takes for less: one needle, and
// all secrets of ten in their raw form and three more.
func BenchmarkBaseline(b *testing.B) {
	secrets := secretsFor(10)
	texts := corpora(secrets)
	var pairs []string
	for _, secret := range secrets {
		for _, encode := range []int{0, 1, 6, 8} {
			pairs = append(pairs, encoders[encode](secret), Marker)
		}
	}
	replacer := strings.NewReplacer(pairs...)
	for _, name := range corpusNames {
		text := texts[name]
		b.Run(name+"/bytes.ReplaceAll,needles=1", func(b *testing.B) {
			defer processor(b, len(text))()
			for b.Loop() {
				bytes.ReplaceAll(text, []byte(secrets[0]), []byte(Marker))
			}
		})
		b.Run(name+"/strings.Replacer,needles=40", func(b *testing.B) {
			asString := string(text)
			defer processor(b, len(text))()
			for b.Loop() {
				replacer.WriteString(io.Discard, asString)
			}
		})
	}
}

// BenchmarkNewSet is what a new secret costs while a stream runs.
func BenchmarkNewSet(b *testing.B) {
	for _, n := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("secrets=%d", n), func(b *testing.B) {
			secrets := secretsFor(n)
			b.ReportAllocs()
			defer processor(b, 0)()
			for b.Loop() {
				newSet(b, secrets...)
			}
		})
	}
}

// BenchmarkRepetitive is the worst that is known: a secret that is like itself a
// byte further on, in a text that is nearly made of it.
func BenchmarkRepetitive(b *testing.B) {
	for _, length := range []int{16, 32} {
		b.Run(fmt.Sprintf("bytes=%d", length), func(b *testing.B) {
			set := newSet(b, strings.Repeat("a", length))
			text := bytes.Repeat([]byte(strings.Repeat("a", length-1)+"b"), benchBytes/length)
			defer processor(b, len(text))()
			for b.Loop() {
				set.Bytes(text)
			}
		})
	}
}
