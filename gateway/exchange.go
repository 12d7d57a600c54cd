package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/execgate/execgate/execution"
)

// exchange is one request and its response, on their way through the gateway.
type exchange struct {
	gin          *gin.Context
	writeTimeout time.Duration

	began     time.Time
	requestID string
	traceID   string
	principal execution.Principal // proven; zero on a public route
	media     string              // the form of the answer that the caller wants
	execution string              // id, once there is one
	session   string              // id of the one that the request is about
	err       error               // for the log
}

func (g *Gateway) begin(c *gin.Context) *exchange {
	now := time.Now()
	x := &exchange{
		gin: c, writeTimeout: g.config.WriteTimeout, began: now,
		requestID: requestIDOf(c.Request.Header, now), traceID: traceIDOf(c.Request.Header),
	}
	h := c.Writer.Header()
	h.Set("X-Request-Id", x.requestID)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	return x
}

// ctx ends when the client hangs up, once the whole body has been read.
func (x *exchange) ctx() context.Context { return x.gin.Request.Context() }

func (x *exchange) fail(err error) {
	x.err = err
	if !x.gin.Writer.Written() {
		x.writeProblem(problemOf(err, x.requestID, x.execution))
	}
}

// write sends the one response. Its time begins here: the program that it is
// about may have run for hours.
func (x *exchange) write(status int, contentType string, body []byte) {
	w := x.gin.Writer
	h := w.Header()
	if contentType != "" {
		h.Set("Content-Type", contentType)
	}
	if status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	// It fails only on a writer that has no connection, in tests.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(x.writeTimeout))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil && x.err == nil {
		x.err = err // the client is gone; the line of the log says so
	}
}

// body reads the whole body, which tells net/http to watch for the client
// hanging up, and lifts the deadline of reading, which would otherwise pass for
// a hang-up while the program runs.
func (x *exchange) body(cap int64) ([]byte, error) {
	r := x.gin.Request
	tooLarge := errBodyTooLarge(cap)
	if r.ContentLength > cap {
		return nil, tooLarge
	}
	content, err := io.ReadAll(http.MaxBytesReader(x.gin.Writer, r.Body, cap))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, tooLarge
		}
		return nil, &execution.Error{
			Kind: execution.KindInvalid, Code: "body_incomplete", Detail: "the body did not arrive whole and in time", Err: err,
		}
	}
	_ = http.NewResponseController(x.gin.Writer).SetReadDeadline(time.Time{}) // fails as in write
	return content, nil
}

func errBodyTooLarge(cap int64) error {
	return &execution.Error{
		Kind: execution.KindTooLarge, Detail: "a body may have at most " + strconv.FormatInt(cap, 10) + " bytes",
	}
}

// finish writes the one line of the log about the exchange. What is in it was
// checked or made by the gateway: no body, no credential, no path of the caller.
func (g *Gateway) finish(x *exchange) {
	level := slog.LevelInfo
	status := x.gin.Writer.Status()
	attrs := []slog.Attr{
		slog.String("request_id", x.requestID),
		slog.String("method", x.gin.Request.Method),
		slog.String("route", x.gin.FullPath()), // the pattern; empty where there is none
		slog.Int("status", status),
		slog.Int("bytes", max(0, x.gin.Writer.Size())),
		slog.Float64("duration_ms", float64(time.Since(x.began).Microseconds())/1000),
		slog.String("remote", x.remote()),
	}
	optional := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	optional("trace_id", x.traceID)
	optional("subject", x.principal.Subject)
	optional("tenant", x.principal.Tenant)
	optional("execution", x.execution)
	optional("session", x.session)
	if x.err != nil {
		attrs = append(attrs, slog.String("kind", string(execution.KindOf(x.err))), slog.String("error", x.err.Error()))
	}
	if status >= 500 {
		level = slog.LevelError
	}
	g.config.Logger.LogAttrs(x.ctx(), level, "request", attrs...)
}

// remote is the address of the peer, without its port. Headers of proxies are
// not believed.
func (x *exchange) remote() string {
	host, _, err := net.SplitHostPort(x.gin.Request.RemoteAddr)
	if err != nil {
		return x.gin.Request.RemoteAddr
	}
	return host
}
