package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/execgate/execgate/execution"
)

// maxFile bounds the file of a File, in bytes.
const maxFile = 1 << 20

// FileConfig is what a File is made from.
type FileConfig struct {
	// Path is a file in YAML or JSON: for each tool its fields, and their values.
	// Nobody but its owner may be able to read it.
	Path string
	// Record makes a record durable.
	Record func(ctx context.Context, record execution.Record) error
	Logger *slog.Logger
}

// File lends what is in a file, for trying things out: nothing of it is leased, and
// nothing can be taken back. Every lease of it says so (Unleased). Of a credential
// only the tool and its use count; mount, path and policies are Vault's.
type File struct {
	cfg    FileConfig
	values map[string]map[string]execution.Secret

	mu    sync.Mutex
	loans map[string]*loan
}

// NewFile reads the file.
func NewFile(cfg FileConfig) (*File, error) {
	if cfg.Record == nil || cfg.Logger == nil {
		return nil, errors.New("credentials file: a part is missing")
	}
	values, err := readValues(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("credentials file: %w", err)
	}
	cfg.Logger.Warn("CREDENTIALS COME FROM A FILE: they are not leased, have no end and cannot be revoked; for trying things out only", "path", cfg.Path, "tools", len(values))
	return &File{cfg: cfg, values: values, loans: make(map[string]*loan)}, nil
}

func readValues(path string) (map[string]map[string]execution.Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (%v): chmod 600 it", path, info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s has over %d bytes", path, maxFile)
	}
	// JSON is YAML. The parser's errors repeat what they are about: a value.
	var plain map[string]map[string]string
	if err := yaml.Unmarshal(text, &plain); err != nil {
		return nil, fmt.Errorf("%s does not hold, for each tool, fields and values that are texts", path)
	}
	values := make(map[string]map[string]execution.Secret, len(plain))
	for tool, fields := range plain {
		if len(fields) == 0 {
			return nil, fmt.Errorf("%s has no fields for the tool %q", path, tool)
		}
		values[tool] = make(map[string]execution.Secret, len(fields))
		for name, value := range fields {
			values[tool][name] = execution.NewSecret(value)
		}
	}
	return values, nil
}

// Check refuses a tool that is not in the file.
func (f *File) Check(credentials []execution.Credential) error {
	return checkAll(credentials, func(c execution.Credential) error {
		if f.values[c.Tool] == nil {
			return none(CodeNotLent, c.Tool, "is not in the file of credentials")
		}
		if err := use(c); err != nil {
			return none("credential_refused", c.Tool, "cannot be lent: "+err.Error())
		}
		return nil
	})
}

// Lend implements the gateway's Lender. A tool that is not in the file is refused
// with KindDenied.
func (f *File) Lend(ctx context.Context, asked execution.Loan) (execution.Lent, error) {
	if len(asked.Credentials) == 0 {
		return execution.Lent{}, nil
	}
	n := &loan{id: asked.Execution, asked: asked, until: time.Now().Add(asked.Lasts), tools: make(map[string]*lease)}
	if err := f.Check(asked.Credentials); err != nil {
		return execution.Lent{}, err
	}
	for _, c := range asked.Credentials {
		n.tools[c.Tool] = &lease{loan: n, credential: c}
	}
	f.mu.Lock()
	_, twice := f.loans[n.id]
	if !twice {
		f.loans[n.id] = n
	}
	f.mu.Unlock()
	if twice {
		return execution.Lent{}, fmt.Errorf("lend: execution %s has a loan already", n.id)
	}
	return n.expose(ctx, asked.Credentials, f.issue)
}

// Value is as that of Vault.
func (f *File) Value(ctx context.Context, executionID, tool string) (map[string]execution.Secret, execution.Lease, error) {
	f.mu.Lock()
	n := f.loans[executionID]
	f.mu.Unlock()
	return n.use(ctx, tool, f.issue)
}

// issue records that the value is given away, before it is.
func (f *File) issue(ctx context.Context, l *lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.isIssued() {
		return nil
	}
	public := execution.Lease{
		Tool: l.credential.Tool, ID: "file/" + l.credential.Tool, Expires: l.loan.until.UTC(),
		Exposed: exposed(l.credential), Unleased: true,
	}
	if ttl := time.Duration(min(l.credential.TTLS, maxSeconds)) * time.Second; ttl > 0 && time.Now().Add(ttl).Before(l.loan.until) {
		public.Expires = time.Now().Add(ttl).UTC()
	}
	l.loan.mu.Lock()
	l.public = public
	l.loan.mu.Unlock()
	if err := f.cfg.Record(ctx, l.record(execution.RecordLeaseIssued, l.change())); err != nil {
		return err
	}
	l.loan.mu.Lock()
	defer l.loan.mu.Unlock()
	l.issued, l.fields = true, maps.Clone(f.values[l.credential.Tool])
	return nil
}

// Revoke ends the use of what was lent. The leases stay as they were: the program
// keeps what it was given.
func (f *File) Revoke(_ context.Context, executionID string) ([]execution.Lease, error) {
	f.mu.Lock()
	n := f.loans[executionID]
	delete(f.loans, executionID)
	f.mu.Unlock()
	if n == nil {
		return nil, nil
	}
	n.close()
	return n.leases(), nil
}
