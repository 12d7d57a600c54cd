package gateway

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/execgate/execgate/execution"
)

// Config is what a Gateway is made of, and its bounds. A bound that is zero is
// the default that its comment names; there is no way to have none.
type Config struct {
	Service       *Service
	Authenticator Authenticator
	Keys          Keys
	// Policies changes the policy; nil: it cannot be changed over HTTP.
	Policies Policies
	// Eraser erases what is kept; nil: nothing can be.
	Eraser   Eraser
	Recorder Recorder // of failed authentications, of keys, and of who reads records
	// Records finds records; nil: they cannot be read over HTTP.
	Records Records
	// Probers are the checks of /readyz by name. The service's own is added as
	// "gateway".
	Probers map[string]Prober
	// Metrics answers GET /metrics to those who may read them; nil: there are none.
	// What it writes is of all tenants, and names none.
	Metrics http.Handler
	Logger  *slog.Logger

	MaxBodyBytes   int64 // of one request; 16 MiB
	MaxCodeBytes   int   // of the code in it; 1 MiB
	MaxHeaderBytes int   // of the request line and headers; 32 KiB

	ReadHeaderTimeout time.Duration // from the connection to the end of the headers; 10 s
	ReadTimeout       time.Duration // to the end of the body; 60 s
	WriteTimeout      time.Duration // of the response, from its first byte, or of one event of a stream; 60 s
	IdleTimeout       time.Duration // between two requests on a connection; 60 s
	// DrainTimeout is how long running executions may go on after Serve was told
	// to stop, before they are cancelled; 30 s.
	DrainTimeout time.Duration
}

// Gateway is the HTTP surface.
type Gateway struct {
	config  Config
	engine  *gin.Engine
	records *records
	probes  *probes
	// failures bounds how many failed authentications become records.
	failures *bucket
	readers  *readers
	searches *readers
	reads    reads
}

// closeTimeout is how long open connections have, after draining, to take the
// responses that are on their way.
const closeTimeout = 5 * time.Second

// New checks config and starts nothing.
func New(config Config) (*Gateway, error) {
	switch {
	case config.Service == nil:
		return nil, errors.New("gateway: no service")
	case config.Authenticator == nil:
		return nil, errors.New("gateway: no authenticator")
	case config.Keys == nil:
		return nil, errors.New("gateway: no keys")
	case config.Recorder == nil:
		return nil, errors.New("gateway: no recorder")
	case config.Logger == nil:
		return nil, errors.New("gateway: no logger")
	}
	for name, prober := range config.Probers {
		if name == "" || name == selfCheck || prober == nil {
			return nil, errors.New("gateway: prober " + name + " has no name, a name that is taken, or is nil")
		}
	}
	if config.MaxBodyBytes < 0 || config.MaxCodeBytes < 0 || config.MaxHeaderBytes < 0 ||
		min(config.ReadHeaderTimeout, config.ReadTimeout, config.WriteTimeout, config.IdleTimeout, config.DrainTimeout) < 0 {
		return nil, errors.New("gateway: a bound is negative")
	}
	orDefault(&config.MaxBodyBytes, 16<<20)
	orDefault(&config.MaxCodeBytes, 1<<20)
	orDefault(&config.MaxHeaderBytes, 32<<10)
	orDefault(&config.ReadHeaderTimeout, 10*time.Second)
	orDefault(&config.ReadTimeout, 60*time.Second)
	orDefault(&config.WriteTimeout, 60*time.Second)
	orDefault(&config.IdleTimeout, 60*time.Second)
	orDefault(&config.DrainTimeout, 30*time.Second)

	checks := map[string]Prober{selfCheck: config.Service}
	maps.Copy(checks, config.Probers)
	g := &Gateway{
		config:   config,
		records:  &records{recorder: config.Recorder, log: config.Logger, budget: config.Service.records.budget},
		probes:   newProbes(checks, config.Logger),
		failures: newBucket(failureBurst, failureInterval),
		readers:  &readers{most: maxReaders},
		searches: &readers{most: maxSearches},
	}
	g.engine = g.newEngine()
	return g, nil
}

func orDefault[T comparable](value *T, byDefault T) {
	var zero T
	if *value == zero {
		*value = byDefault
	}
}

// newEngine lays the table of routes out in gin. Gin routes, and nothing else:
// what it would do on its own (redirects, logging, recovery, trust in proxies'
// headers) is off.
func (g *Gateway) newEngine() *gin.Engine {
	gin.SetMode(gin.ReleaseMode) // a switch of the whole process; it only silences debug output
	engine := gin.New()
	engine.RedirectTrailingSlash = false
	engine.RedirectFixedPath = false
	engine.HandleMethodNotAllowed = true
	engine.ForwardedByClientIP = false
	engine.SetTrustedProxies(nil) // never fails for nil
	for _, r := range g.routes() {
		engine.Handle(r.method, r.path, g.handler(r))
	}
	engine.NoRoute(g.handler(route{public: true, handle: func(*exchange) error {
		return &execution.Error{Kind: execution.KindNotFound, Detail: "there is no such route"}
	}}))
	engine.NoMethod(g.handler(route{public: true, handle: func(*exchange) error {
		return &execution.Error{Kind: kindMethodNotAllowed, Detail: "see the header Allow"}
	}}))
	return engine
}

// Handler returns the surface without a server around it, for tests and for
// embedding. Bounds on headers and connections are then the embedder's.
func (g *Gateway) Handler() http.Handler { return g.engine }

// Serve answers on listener, which it closes, until ctx ends. It then refuses
// new executions, lets those under way end within DrainTimeout, cancels what is
// left and waits for its end to be recorded, and returns. All the while /readyz
// says that the gateway is not ready. It returns nil after an orderly stop.
func (g *Gateway) Serve(ctx context.Context, listener net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	server := &http.Server{
		Handler:           g.engine,
		Protocols:         &protocols,
		ReadHeaderTimeout: g.config.ReadHeaderTimeout,
		ReadTimeout:       g.config.ReadTimeout,
		// Counted from the end of the headers; write begins it anew, so that it
		// bounds how slowly a response is taken and not how long a program runs.
		WriteTimeout:                 g.config.WriteTimeout,
		IdleTimeout:                  g.config.IdleTimeout,
		MaxHeaderBytes:               g.config.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true, // the table of routes answers, and nothing else
		ErrorLog:                     slog.NewLogLogger(g.config.Logger.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	sweeping, stopSweeping := context.WithCancel(context.WithoutCancel(ctx))
	var sweeper sync.WaitGroup
	sweeper.Go(func() { g.config.Service.sweep(sweeping) })
	sweeper.Go(func() { g.config.Service.watchApprovals(sweeping) })
	sweeper.Go(func() { g.config.Service.webhooks.run(sweeping) })
	defer func() { stopSweeping(); sweeper.Wait() }()

	select {
	case err := <-served:
		// The listener failed. What runs is still brought to its end.
		return errors.Join(err, g.stop(ctx, server))
	case <-ctx.Done():
		err := g.stop(ctx, server)
		<-served // ErrServerClosed: it was told to
		return err
	}
}

func (g *Gateway) stop(ctx context.Context, server *http.Server) error {
	ctx = context.WithoutCancel(ctx)
	drain, cancel := context.WithTimeout(ctx, g.config.DrainTimeout)
	defer cancel()
	drained := g.config.Service.Drain(drain)

	closing, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := server.Shutdown(closing); err != nil {
		// Somebody reads slowly or keeps a connection half open: no reason to stay.
		return errors.Join(drained, server.Close())
	}
	return drained
}
