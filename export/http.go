package export

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = time.Hour

// endOfAnswer is how long the end of an answer's body is waited for.
const endOfAnswer = time.Second

// poster sends batches to an HTTP receiver. Any status of 200 to 299 acknowledges a whole
// batch.
type poster struct {
	sink   Sink
	log    string
	pace   pace
	client *http.Client
}

func newPoster(s Sink, p producer, timing pace) (*poster, error) {
	cfg, err := tlsOf(s)
	if err != nil {
		return nil, err
	}
	if s.TokenFile != "" {
		if _, err := readToken(s.TokenFile); err != nil {
			return nil, err
		}
	}
	return &poster{sink: s, log: p.log, pace: timing, client: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true,
			MaxIdleConns: 2, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		// A token and records are for the address that was configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// send implements outlet.
func (p *poster) send(ctx context.Context, b batch) error {
	ctx, cancel := context.WithTimeout(ctx, p.pace.attempt)
	defer cancel()
	body, err := p.body(b)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.sink.URL, bytes.NewReader(body))
	if err != nil {
		return withoutURL(err)
	}
	h := request.Header
	h.Set("User-Agent", "execgate")
	h.Set("Content-Type", "application/json")
	if p.sink.format() == FormatNDJSON {
		h.Set("Content-Type", "application/x-ndjson")
	}
	if p.sink.Gzip {
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("Execgate-Log", p.log)
	h.Set("Execgate-First-Seq", strconv.FormatUint(b.items[0].seq, 10))
	h.Set("Execgate-Last-Seq", strconv.FormatUint(b.items[len(b.items)-1].seq, 10))
	if p.sink.TokenFile != "" {
		token, err := readToken(p.sink.TokenFile)
		if err != nil {
			return err
		}
		h.Set("Authorization", "Bearer "+token.Reveal())
	}
	answer, err := p.client.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	// A connection whose answer was read to its end is used again. It may have none.
	defer time.AfterFunc(endOfAnswer, cancel).Stop()
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10)
	return judge(answer, time.Now())
}

// judge says what an answer means.
func judge(answer *http.Response, now time.Time) error {
	status := answer.StatusCode
	if status >= 200 && status < 300 {
		return nil
	}
	f := &failure{err: fmt.Errorf("the receiver answered %d", status), tooLarge: status == http.StatusRequestEntityTooLarge}
	if status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
		f.refused = true
	}
	f.after = retryAfter(answer.Header.Get("Retry-After"), now)
	return f
}

// retryAfter is what the header asks for (RFC 9110, section 10.2.3): seconds, or a date.
func retryAfter(text string, now time.Time) time.Duration {
	var d time.Duration
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		d = at.Sub(now)
	}
	return min(max(0, d), maxRetryAfter)
}

// body is what is posted.
func (p *poster) body(b batch) ([]byte, error) {
	text := make([]byte, 0, b.bytes+len(b.items)+2)
	if p.sink.format() == FormatNDJSON {
		for _, i := range b.items {
			text = append(append(text, i.text...), '\n')
		}
	} else {
		for n, i := range b.items {
			text = append(append(text, "[,"[min(n, 1)]), i.text...)
		}
		text = append(text, ']')
	}
	if !p.sink.Gzip {
		return text, nil
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(text)
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("compress a batch: %w", err)
	}
	return packed.Bytes(), nil
}

// withoutURL takes the address out of an error: it may hold a token.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (p *poster) settled(next uint64) uint64 { return next }

func (p *poster) close() { p.client.CloseIdleConnections() }
