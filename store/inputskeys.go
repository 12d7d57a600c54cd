package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/execgate/execgate/execution"
)

// inputKeys are the keys that inputs are encrypted under. Everything is sealed by
// AES-256-GCM with a random nonce of 96 bits before the text; a key seals at most
// 2^32 texts (NIST SP 800-38D, 8.3), which no tenant reaches.
type inputKeys struct {
	over cipher.AEAD // of the key file

	mu      sync.Mutex
	tenants map[int64]cipher.AEAD // by id; only those that exist
}

// tenantKey is the key that a tenant's inputs are sealed under at present.
type tenantKey struct {
	id   int64
	aead cipher.AEAD
}

// openInputKeys uses the key in the file at path, which it makes where there is
// none and it may.
func openInputKeys(path string, make bool) (*inputKeys, error) {
	key, err := readInputKey(path)
	if errors.Is(err, fs.ErrNotExist) && make {
		if err = makeSealKey(path); err == nil {
			key, err = readInputKey(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of recorded inputs: %w", err)
	}
	return &inputKeys{over: gcm(key), tenants: map[int64]cipher.AEAD{}}, nil
}

func readInputKey(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has the mode %v: run chmod 600 on it, and let nobody else read it", path, mode)
	}
	key, err := io.ReadAll(io.LimitReader(file, sealKeyBytes+1))
	if err != nil {
		return nil, err
	}
	if len(key) != sealKeyBytes {
		return nil, fmt.Errorf("%s holds no key of %d bytes: restore it, or remove it, which erases every recorded input", path, sealKeyBytes)
	}
	return key, nil
}

// gcm returns AES-256-GCM under a key of 32 bytes.
func gcm(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has another size
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has blocks of 16 bytes
	}
	return aead
}

func newInputKey() []byte {
	key := make([]byte, sealKeyBytes)
	rand.Read(key) // never fails; it ends the program instead
	return key
}

func sealInput(aead cipher.AEAD, text, about []byte) []byte {
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(text)+aead.Overhead())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, text, about)
}

// openInput fails with errUnreadable.
func openInput(aead cipher.AEAD, sealed, about []byte) ([]byte, error) {
	n := aead.NonceSize()
	if len(sealed) < n {
		return nil, errUnreadable()
	}
	text, err := aead.Open(nil, sealed[:n], sealed[n:], about)
	if err != nil {
		return nil, errUnreadable()
	}
	return text, nil
}

// The codes of what is there and cannot be read.
const (
	CodeInputErased     = "input_erased"
	CodeInputUnreadable = "input_unreadable"
)

func errErased() error {
	return &execution.Error{Kind: execution.KindGone, Code: CodeInputErased, Detail: "it was erased"}
}

func errUnreadable() error {
	return &execution.Error{
		Kind: execution.KindGone, Code: CodeInputUnreadable,
		Detail: "it is damaged, was moved, or was sealed under another key file",
	}
}

// envelope seals text under a key of its own, and that key under the tenant's.
func (k tenantKey) envelope(text, about []byte) (wrapped, sealed []byte) {
	own := newInputKey()
	return sealInput(k.aead, own, about), sealInput(gcm(own), text, about)
}

// open opens an envelope. It fails with errErased or errUnreadable.
func (k *inputKeys) open(ctx context.Context, db querier, key int64, wrapped, sealed, about []byte) ([]byte, error) {
	if wrapped == nil {
		return nil, errErased()
	}
	tenant, err := k.tenant(ctx, db, key)
	if err != nil {
		return nil, err
	}
	own, err := openInput(tenant, wrapped, about)
	if err != nil {
		return nil, err
	}
	if len(own) != sealKeyBytes {
		return nil, errUnreadable()
	}
	return openInput(gcm(own), sealed, about)
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// tenant returns a tenant's key by its id. It fails with errErased where it is
// gone.
func (k *inputKeys) tenant(ctx context.Context, db querier, id int64) (cipher.AEAD, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if aead, ok := k.tenants[id]; ok {
		return aead, nil
	}
	var tenant string
	var wrapped []byte
	err := db.QueryRowContext(ctx, "SELECT tenant, wrapped FROM input_keys WHERE id = ?", id).Scan(&tenant, &wrapped)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errErased()
	}
	if err != nil {
		return nil, fmt.Errorf("read key of a tenant's inputs: %w", err)
	}
	key, err := openInput(k.over, wrapped, aboutTenant(tenant))
	if err != nil {
		return nil, err
	}
	k.tenants[id] = gcm(key)
	return k.tenants[id], nil
}

// forget drops every key that was read, so that what was erased cannot be opened.
func (k *inputKeys) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.tenants)
}

// present returns the key to seal a tenant's inputs under, and makes it where
// there is none. One that cannot be read is replaced: what was sealed under it
// cannot be read either way.
func (k *inputKeys) present(ctx context.Context, tx *sql.Tx, tenant string) (tenantKey, error) {
	var id int64
	err := tx.QueryRowContext(ctx, "SELECT id FROM input_keys WHERE tenant = ?", tenant).Scan(&id)
	if err == nil {
		aead, err := k.tenant(ctx, tx, id)
		if err == nil {
			return tenantKey{id, aead}, nil
		}
		if execution.KindOf(err) != execution.KindGone {
			return tenantKey{}, err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM input_keys WHERE id = ?", id); err != nil {
			return tenantKey{}, err
		}
	} else if !errors.Is(err, sql.ErrNoRows) {
		return tenantKey{}, err
	}
	key := newInputKey()
	wrapped := sealInput(k.over, key, aboutTenant(tenant))
	if err := tx.QueryRowContext(ctx, "INSERT INTO input_keys (tenant, wrapped) VALUES (?, ?) RETURNING id", tenant, wrapped).Scan(&id); err != nil {
		return tenantKey{}, err
	}
	return tenantKey{id, gcm(key)}, nil
}

// What is sealed is bound to where it stands: a row that was changed, or swapped
// with another, does not open.

func aboutTenant(tenant string) []byte {
	return fmt.Appendf(nil, "execgate input tenant 1\x00%s", tenant)
}

func (in *Input) about() []byte {
	r := in.Revisions
	return fmt.Appendf(nil, "execgate input 1\x00%s\x00%d\x00%s\x00%d\x00%s\x00%s\x00%s",
		in.Execution, in.Seq, in.Tenant, in.Time.UnixMilli(), r.Organisation, r.Own, r.Terms)
}

func (d *Document) about() []byte {
	return fmt.Appendf(nil, "execgate input document 1\x00%s\x00%s\x00%s", d.Kind, d.Digest, d.Tenant)
}
