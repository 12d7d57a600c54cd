package gateway

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
)

// The bounds of deliveries. A delivery is given up after its last attempt.
const (
	webhookQueue    = 128 // deliveries that wait, of one webhook
	webhookAttempts = 5
	webhookPause    = time.Second // before the second attempt; doubled before each further one
	webhookTimeout  = 10 * time.Second
	minWebhookKey   = 16 // bytes
)

// Webhook is one address that is told of events.
type Webhook struct {
	URL    string           // http or https
	Secret execution.Secret // what deliveries are signed with; at least 16 bytes
}

// Webhooks delivers events in the background, each webhook its own in order. It is
// safe for concurrent use. What has not been delivered when it stops is lost.
type Webhooks struct {
	hooks  map[string]*hook
	client *http.Client
	log    *slog.Logger
	counts tally[string]
}

type hook struct {
	name  string
	to    Webhook
	queue chan delivery
	// places holds a token for each delivery that waits or has its place reserved.
	places chan struct{}
}

type delivery struct {
	id   string
	body []byte
}

// The results of deliveries, as they are counted.
const (
	deliveryDone    = "delivered"
	deliveryFailed  = "failed"  // given up
	deliveryDropped = "dropped" // there was no room
)

// NewWebhooks checks all and starts nothing.
func NewWebhooks(all map[string]Webhook, logger *slog.Logger) (*Webhooks, error) {
	if logger == nil {
		return nil, errors.New("webhooks: no logger")
	}
	w := &Webhooks{hooks: map[string]*hook{}, log: logger, client: &http.Client{
		Timeout:   webhookTimeout,
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: webhookTimeout},
		// A signature is for the address that it was made for.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for name, to := range all {
		u, err := url.Parse(to.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			return nil, fmt.Errorf("webhook %q: its URL must be an http or https address without a user, such as https://hooks.example.com/execgate", name)
		}
		if len(to.Secret.Reveal()) < minWebhookKey {
			return nil, fmt.Errorf("webhook %q: its secret must have at least %d bytes", name, minWebhookKey)
		}
		w.hooks[name] = &hook{name: name, to: to, queue: make(chan delivery, webhookQueue), places: make(chan struct{}, webhookQueue)}
	}
	return w, nil
}

// has reports whether there is a webhook of that name.
func (w *Webhooks) has(name string) bool { return w != nil && w.hooks[name] != nil }

// place reserves room for one delivery to the webhook called name. It is used up by
// send or by drop. There is none where the queue is full.
func (w *Webhooks) place(name string) (*hook, bool) {
	if !w.has(name) {
		return nil, false
	}
	h := w.hooks[name]
	select {
	case h.places <- struct{}{}:
		return h, true
	default:
		w.counts.add(deliveryDropped)
		return nil, false
	}
}

func (h *hook) drop() { <-h.places }

// send delivers body, a JSON document, by the place that was reserved. It does not
// wait.
func (h *hook) send(id string, body []byte) { h.queue <- delivery{id, body} }

// run delivers until ctx ends.
func (w *Webhooks) run(ctx context.Context) {
	if w == nil {
		return
	}
	var all sync.WaitGroup
	for _, h := range w.hooks {
		all.Go(func() {
			for {
				select {
				case d := <-h.queue:
					w.deliver(ctx, h, d)
					h.drop()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
	w.client.CloseIdleConnections()
}

func (w *Webhooks) deliver(ctx context.Context, h *hook, d delivery) {
	pause := webhookPause
	var err error
	for attempt := 1; attempt <= webhookAttempts; attempt++ {
		var again bool
		if again, err = w.attempt(ctx, h, d); err == nil {
			w.counts.add(deliveryDone)
			return
		}
		if !again || ctx.Err() != nil || attempt == webhookAttempts {
			break
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause *= 2
	}
	w.counts.add(deliveryFailed)
	// The error of a client names the URL, which may hold a token.
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	w.log.WarnContext(ctx, "webhook not delivered", "webhook", h.name, "delivery", d.id, "error", err)
}

// attempt sends d once. again says whether another attempt may go better.
func (w *Webhooks) attempt(ctx context.Context, h *hook, d delivery) (again bool, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.to.URL, bytes.NewReader(d.body))
	if err != nil {
		return false, err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "execgate")
	request.Header.Set("Execgate-Delivery", d.id)
	request.Header.Set("Execgate-Timestamp", timestamp)
	request.Header.Set("Execgate-Signature", "sha256="+webhookSignature(h.to.Secret, timestamp, d.body))
	answer, err := w.client.Do(request)
	if err != nil {
		return true, err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10) // so that the connection can be used again
	switch status := answer.StatusCode; {
	case status >= 200 && status < 300:
		return false, nil
	default:
		again = status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout
		return again, fmt.Errorf("answered %d", status)
	}
}

// webhookSignature is HMAC-SHA256 over the timestamp, a dot and the body, in hex.
func webhookSignature(secret execution.Secret, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

// Counts returns how many deliveries came to which result.
func (w *Webhooks) Counts() map[string]uint64 {
	counts := map[string]uint64{deliveryDone: 0, deliveryFailed: 0, deliveryDropped: 0}
	if w != nil {
		w.counts.copyTo(counts)
	}
	return counts
}
