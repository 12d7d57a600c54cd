package vault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"time"

	"github.com/execgate/execgate/execution"
)

// What is meant by zero in a Config.
const (
	defaultTimeout         = 5 * time.Second
	defaultMaxTTL          = 24 * time.Hour
	defaultBreakerFailures = 3
	defaultBreakerOpen     = 5 * time.Second
)

// Config is what a Vault is made from. Nothing is read from the environment: no
// VAULT_ variable and no proxy variable has any effect.
type Config struct {
	// Address is the URL of the server: https, or http on a loopback address.
	Address string
	// Plaintext allows http to any address: whoever is on the way reads every value.
	Plaintext bool
	// CAFile holds the authorities, as PEM, that the server's certificate may be
	// from; empty: those of the system.
	CAFile string
	// ServerName is the name in the certificate, where it is not the address's.
	ServerName string
	// ClientCert and ClientKey are files with a certificate to show, and its key;
	// both or neither.
	ClientCert, ClientKey string
	// Namespace is that of Vault Enterprise in which everything is; empty: the root.
	Namespace string
	// Timeout bounds one call; zero is 5 s.
	Timeout time.Duration

	Auth Auth
	// TokenRole is the role of auth/token/create that makes the tokens of executions;
	// empty: they are made by auth/token/create-orphan, for which the gateway's own
	// token needs every policy that it gives away, or sudo.
	TokenRole string
	// Mounts are the engines that credentials may be read from.
	Mounts Mounts
	// MaxTTL is the longest that a token may live; zero is 24 hours.
	MaxTTL time.Duration

	// BreakerFailures is how many calls in a row fail to reach Vault before none is
	// tried for BreakerOpen; zero is 3, and 5 s.
	BreakerFailures int
	BreakerOpen     time.Duration

	Journal Journal
	// Record makes a record durable.
	Record func(ctx context.Context, record execution.Record) error
	Logger *slog.Logger
}

// Journal remembers what was asked of Vault, so that it is ended whatever happens
// to this process.
type Journal interface {
	// Begin remembers that a token is about to be made. It is durable on return.
	Begin(ctx context.Context, entry Entry) error
	// Hold remembers the token's accessor. It is durable on return.
	Hold(ctx context.Context, id, accessor string) error
	// End forgets the entry. It need not be durable: what is ended again is no fault.
	End(ctx context.Context, id string) error
	// Open returns the entries that were not ended, oldest first.
	Open(ctx context.Context) ([]Entry, error)
}

// Entry is one token in the Journal. It holds nothing secret.
type Entry struct {
	ID        string // in the token's metadata as "intent"
	Execution string
	Owner     execution.Owner
	// Credentials are those that are read with the token.
	Credentials []execution.Credential
	// Accessor names the token; empty where it is not known whether there is one.
	Accessor string
	// Expires is when Vault has ended the token by itself, at the latest.
	Expires time.Time
}

// segmentPattern is one part of a path at Vault. It has none of what means
// something to a URL, to a proxy before Vault, or to Vault's own policies.
var segmentPattern = regexp.MustCompile(`^[A-Za-z0-9_@:=,~-][A-Za-z0-9_@:=,~.-]{0,127}$`)

// filled checks the configuration and fills in what zero means.
func (c Config) filled() (Config, error) {
	switch {
	case c.Journal == nil:
		return c, errors.New("there is no journal")
	case c.Record == nil:
		return c, errors.New("there is no record")
	case c.Logger == nil:
		return c, errors.New("there is no logger")
	case c.Timeout < 0 || c.MaxTTL < 0 || c.BreakerFailures < 0 || c.BreakerOpen < 0:
		return c, errors.New("a bound is negative")
	case (c.ClientCert == "") != (c.ClientKey == ""):
		return c, errors.New("a client certificate needs its key, and a key its certificate")
	case c.TokenRole != "" && !segmentPattern.MatchString(c.TokenRole):
		return c, fmt.Errorf("the token role %q is no name of a role", c.TokenRole)
	}
	if err := c.checkAddress(); err != nil {
		return c, err
	}
	if c.Namespace != "" {
		if _, err := segments(c.Namespace); err != nil {
			return c, fmt.Errorf("the namespace %q: %w", c.Namespace, err)
		}
	}
	var err error
	if c.Auth, err = c.Auth.filled(); err != nil {
		return c, err
	}
	if err := c.Mounts.valid(); err != nil {
		return c, err
	}
	orDefault(&c.Timeout, defaultTimeout)
	orDefault(&c.MaxTTL, defaultMaxTTL)
	orDefault(&c.BreakerFailures, defaultBreakerFailures)
	orDefault(&c.BreakerOpen, defaultBreakerOpen)
	return c, nil
}

func (c Config) checkAddress() error {
	u, err := url.Parse(c.Address)
	if err != nil {
		// The parser's own text repeats the address, which may hold a password.
		return errors.New("the address is no URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("the address must begin with https:// or http://")
	case u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return errors.New("the address must be a scheme, a host and perhaps a port, such as https://vault.example:8200")
	case u.Path != "" && u.Path != "/":
		return errors.New("the address must have no path")
	case u.Scheme == "http" && !c.Plaintext && !loopback(u.Hostname()):
		return errors.New("http would show every value to whoever is on the way: use https, or say that plaintext is meant")
	case u.Scheme == "http" && (c.CAFile != "" || c.ServerName != "" || c.ClientCert != ""):
		return errors.New("certificates are configured, and http uses none")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func orDefault[T comparable](value *T, meant T) {
	var zero T
	if *value == zero {
		*value = meant
	}
}
