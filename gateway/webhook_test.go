package gateway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/gateway"
)

const hookSecret = "0123456789abcdef"

// delivered is a request to a webhook, and what it is answered.
type delivered struct {
	header http.Header
	body   string
	answer chan int
}

// listener is a webhook that hands over what it is told.
func listener(t testing.TB) (url string, told chan delivered) {
	t.Helper()
	told = make(chan delivered)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read a delivery: %v", err)
		}
		d := delivered{r.Header, string(body), make(chan int)}
		select {
		case told <- d:
		case <-r.Context().Done():
			return
		}
		status := <-d.answer
		w.Header().Set("Location", "http://"+r.Host+"/elsewhere")
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.URL, told
}

func hooks(t testing.TB, url string) *gateway.Webhooks {
	t.Helper()
	w, err := gateway.NewWebhooks(map[string]gateway.Webhook{"team": {URL: url, Secret: execution.NewSecret(hookSecret)}}, discard())
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// genuine checks the signature as a receiver would.
func (d delivered) genuine() bool {
	mac := hmac.New(sha256.New, []byte(hookSecret))
	mac.Write([]byte(d.header.Get("Execgate-Timestamp") + "." + d.body))
	at, err := strconv.ParseInt(d.header.Get("Execgate-Timestamp"), 10, 64)
	return err == nil && time.Since(time.Unix(at, 0)).Abs() < time.Minute &&
		d.header.Get("Execgate-Signature") == "sha256="+hex.EncodeToString(mac.Sum(nil))
}

func TestWebhookIsToldOfWhatAwaitsApproval(t *testing.T) {
	url, told := listener(t)
	o := newOffice(t, func(c *gateway.ServiceConfig) { c.Webhooks, c.PendingWebhook = hooks(t, url), "team" })
	asked := o.ask() // which does not wait for the webhook
	first := <-told
	first.answer <- 500
	second := <-told
	second.answer <- 204
	if !first.genuine() || !second.genuine() || first.body != second.body || first.header.Get("Execgate-Delivery") != second.header.Get("Execgate-Delivery") {
		t.Errorf("%v %s\n%v %s", first.header, first.body, second.header, second.body)
	}
	var body struct {
		Event, Tenant, Subject, Execution, Approval string
		Roles, Codes                                []string
	}
	if err := json.Unmarshal([]byte(first.body), &body); err != nil || body.Event != "approval_pending" || body.Tenant != "acme" || body.Subject != "ak_caller" ||
		body.Execution != asked.ID || body.Approval != asked.Approval || body.Roles[0] != "approver" || body.Codes[0] != "needs_review" {
		t.Errorf("%s, %v", first.body, err)
	}
	for _, secret := range []string{"print", "reviewed first", hookSecret} {
		if strings.Contains(first.body, secret) {
			t.Errorf("%s", first.body)
		}
	}
	waitFor(t, "the end of a delivery", func() bool { return o.service.Counts().Webhooks["delivered"] == 1 })
}

// A redirect is not followed, and a refusal is not repeated.
func TestWebhookThatRefuses(t *testing.T) {
	url, told := listener(t)
	o := newOffice(t, func(c *gateway.ServiceConfig) { c.Webhooks, c.PendingWebhook = hooks(t, url), "team" })
	for i, status := range []int{307, 404} {
		o.ask()
		(<-told).answer <- status
		waitFor(t, "the end of a delivery", func() bool { return o.service.Counts().Webhooks["failed"] == uint64(i+1) })
	}
}

func notifying(must bool, hook string) execution.Obligation {
	return execution.Obligation{Type: "notify", Must: must, Args: json.RawMessage(`{"webhook":"` + hook + `"}`)}
}

func TestNotify(t *testing.T) {
	url, told := listener(t)
	w := newWorld()
	w.decide = func(execution.Question) execution.Decision {
		d := allow()
		d.Obligations = []execution.Obligation{notifying(true, "team")}
		return d
	}
	config := w.config()
	config.Webhooks = hooks(t, url)
	service, err := gateway.NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, w, func(c *gateway.Config) { c.Service = service })
	a := s.do("POST", "/v1/executions", callerToken, program)
	if a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	first := <-told
	if !first.genuine() || !strings.Contains(first.body, `"event":"execution_allowed"`) || strings.Contains(first.body, "print") {
		t.Errorf("%s", first.body)
	}
	// While the webhook does not answer, so many wait that one more cannot: the
	// requests themselves never do.
	for range 127 {
		if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
	}
	if a := s.do("POST", "/v1/executions", callerToken, program); a.StatusCode != 403 || !strings.Contains(a.body, "obligation_failed") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	ran := strings.Count(w.history(), "execute")
	records := w.recorded()
	if last := records[len(records)-1]; ran != 128 || last.Decided == nil || last.Decided.Decision.Effect != execution.EffectDeny || last.Decided.Decision.Grant.Image != "" {
		t.Errorf("%d ran, %+v", ran, last)
	}
	first.answer <- 200
	(<-told).answer <- 200
}

func TestNewWebhooksRefusesTheUnsafe(t *testing.T) {
	for name, to := range map[string]gateway.Webhook{
		"no secret": {URL: "https://x"}, "no address": {Secret: execution.NewSecret(hookSecret)},
		"another scheme": {URL: "gopher://x", Secret: execution.NewSecret(hookSecret)},
	} {
		if _, err := gateway.NewWebhooks(map[string]gateway.Webhook{"x": to}, discard()); err == nil {
			t.Error(name)
		}
	}
	config := newWorld().config()
	config.PendingWebhook = "none"
	if _, err := gateway.NewService(config); err == nil {
		t.Error("a webhook that is not there")
	}
}
