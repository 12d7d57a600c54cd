package gateway

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/execgate/execgate/execution"
)

// maxSessionBody bounds the body of POST /v1/sessions.
const maxSessionBody = 64 << 10

// createSession is POST /v1/sessions.
func (g *Gateway) createSession(x *exchange) error {
	if len(x.gin.Request.Header["Idempotency-Key"]) > 0 {
		return &execution.Error{
			Kind: execution.KindInvalid, Code: "idempotency_key_invalid",
			Detail: "a session cannot be opened with an Idempotency-Key: leave it out, and delete a session whose answer was lost once it shows in GET /v1/sessions",
		}
	}
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(min(maxSessionBody, g.config.MaxBodyBytes))
	if err != nil {
		return err
	}
	request, err := decodeSession(body)
	if err != nil {
		return err
	}
	opened, err := g.config.Service.OpenSession(x.ctx(), x.call(request))
	x.session = opened.ID
	if err != nil {
		return err
	}
	answer, err := json.Marshal(struct {
		sessionDocument
		Decision decisionDocument `json:"decision"`
		Records  []uint64         `json:"records"`
	}{documentOf(opened.SessionStanding), decisionOf(opened.Decision), array(opened.Records)})
	if err != nil {
		return internal("encode session", err)
	}
	x.gin.Writer.Header().Set("Location", "/v1/sessions/"+opened.ID)
	x.write(http.StatusCreated, mediaJSON, answer)
	return nil
}

func (x *exchange) call(request execution.Request) Call {
	return Call{Principal: x.principal, Request: request, RequestID: x.requestID, TraceID: x.traceID}
}

// decodeSession reads the body of POST /v1/sessions, as decodeRequest does that of
// an execution.
func decodeSession(body []byte) (execution.Request, error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return execution.Request{}, f.err()
	}
	var r execution.Request
	var hasLanguage, hasImage bool
	r.Language, hasLanguage = takeName(m, "language", 32, f)
	r.Image, hasImage = takeName(m, "image", 64, f)
	if !hasLanguage && !hasImage {
		f.add("", "send language, or image, or both")
	}
	if raw, ok := m["limits"]; ok {
		delete(m, "limits")
		r.Limits = decodeLimits(raw, f)
	}
	r.Runtime, _ = takeName(m, "runtime", 64, f)
	r.Metadata, _ = take[map[string]string](m, "", "metadata", f)
	checkMetadata(r.Metadata, f)
	m.rest("", f)
	if err := f.err(); err != nil {
		return execution.Request{}, err
	}
	return r, nil
}

// sessionDocument is an open session.
type sessionDocument struct {
	ID       string           `json:"id"`
	State    string           `json:"state"`
	Language string           `json:"language,omitempty"`
	Image    string           `json:"image"`
	Runtime  string           `json:"runtime"`
	Limits   execution.Limits `json:"limits"`
	Created  time.Time        `json:"created"`
	Expires  time.Time        `json:"expires"`
	IdleS    int64            `json:"idle_s"`
	// IdleExpires is absent while the session is in use.
	IdleExpires time.Time `json:"idle_expires,omitzero"`
	Executions  int       `json:"executions"`
	Busy        bool      `json:"busy"`
}

func documentOf(st SessionStanding) sessionDocument {
	shown := func(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
	d := sessionDocument{
		ID: st.ID, State: st.State, Language: st.Language, Image: st.Image, Runtime: st.Grant.Runtime, Limits: st.Grant.Limits,
		Created: shown(st.Created), Expires: shown(st.Expires), IdleS: st.Grant.Session.IdleS,
		Executions: st.Executions, Busy: st.Busy,
	}
	if !st.Idle.IsZero() {
		d.IdleExpires = shown(st.Idle)
	}
	return d
}

// listSessions is GET /v1/sessions: the caller's own, of an admin all of the tenant.
func (g *Gateway) listSessions(x *exchange) error {
	list := []sessionDocument{}
	for _, st := range g.config.Service.ListSessions(x.principal) {
		list = append(list, documentOf(st))
	}
	body, err := json.Marshal(struct {
		Sessions []sessionDocument `json:"sessions"`
	}{list})
	if err != nil {
		return internal("encode sessions", err)
	}
	x.write(http.StatusOK, mediaJSON, body)
	return nil
}

// showSession is GET /v1/sessions/{id}.
func (g *Gateway) showSession(x *exchange) error {
	st, err := g.config.Service.LookSession(x.ctx(), x.principal, x.gin.Param("id"))
	if err != nil {
		return err
	}
	x.session = st.ID
	body, err := json.Marshal(documentOf(st))
	if err != nil {
		return internal("encode session", err)
	}
	x.write(http.StatusOK, mediaJSON, body)
	return nil
}

// deleteSession is DELETE /v1/sessions/{id}. 204 says that it has ended and that
// this is recorded, also when it is asked again; 202 that it takes its time.
func (g *Gateway) deleteSession(x *exchange) error {
	id := x.gin.Param("id")
	ended, err := g.config.Service.CloseSession(x.ctx(), x.call(execution.Request{}), id)
	if err != nil {
		return err
	}
	x.session = id
	if ended {
		x.write(http.StatusNoContent, "", nil)
		return nil
	}
	body, err := json.Marshal(struct {
		ID    string `json:"id"`
		State string `json:"state"`
	}{id, sessionEnding})
	if err != nil {
		return internal("encode state", err)
	}
	x.write(http.StatusAccepted, mediaJSON, body)
	return nil
}

// putFile is PUT /v1/sessions/{id}/files/{path}: the body is the file, as it is.
func (g *Gateway) putFile(x *exchange) error {
	id, name, err := x.file()
	if err != nil {
		return err
	}
	for _, encoding := range x.gin.Request.Header["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return &execution.Error{Kind: kindUnsupportedMedia, Detail: "send the bytes of the file as they are, without a Content-Encoding"}
		}
	}
	o, err := g.config.Service.ownSession(x.ctx(), x.principal, id)
	if err != nil {
		return err
	}
	x.session = id
	content, err := x.body(min(o.mostPut(), g.config.MaxBodyBytes))
	if err != nil {
		return err
	}
	if err := g.config.Service.PutFile(x.ctx(), x.call(execution.Request{}), id, name, content); err != nil {
		return err
	}
	x.write(http.StatusNoContent, "", nil)
	return nil
}

// getFile is GET /v1/sessions/{id}/files/{path}. A browser must not take what a
// program wrote for a page of the gateway's.
func (g *Gateway) getFile(x *exchange) error {
	id, name, err := x.file()
	if err != nil {
		return err
	}
	tenant := x.principal.Tenant
	if !g.readers.take(tenant) {
		return errTooManyReaders()
	}
	defer g.readers.give(tenant)
	content, err := g.config.Service.GetFile(x.ctx(), x.call(execution.Request{}), id, name)
	if err != nil {
		return err
	}
	x.session = id
	media := mime.TypeByExtension(path.Ext(name))
	if media == "" {
		media = "application/octet-stream"
	}
	x.gin.Writer.Header().Set("Content-Disposition", "attachment")
	x.write(http.StatusOK, media, content)
	return nil
}

// file returns the session and the path that the request's URL names. The path is
// decoded once, from the URL as it was sent.
func (x *exchange) file() (id, name string, err error) {
	id = x.gin.Param("id")
	if !execution.ValidID(execution.PrefixSession, id) {
		return "", "", errSessionNotFound()
	}
	raw, ok := strings.CutPrefix(x.gin.Request.URL.EscapedPath(), "/v1/sessions/"+id+"/files/")
	if !ok {
		return "", "", errSessionNotFound()
	}
	name, err = url.PathUnescape(raw)
	wrong := ""
	switch {
	case err != nil:
		wrong = "must be percent-encoded as URLs are"
	case !utf8.ValidString(name):
		wrong = "must be UTF-8"
	default:
		wrong = checkPath(name)
	}
	if wrong != "" {
		return "", "", &execution.Error{Kind: execution.KindInvalid, Code: "path_invalid", Detail: "the path of the file " + wrong}
	}
	return id, name, nil
}

func mebibytes(n int64) string { return strconv.FormatInt(n>>20, 10) + " MiB" }
