package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/execgate/execgate/execution"
)

// OperatorTenant is the tenant of the key that Bootstrap makes.
const OperatorTenant = "default"

// Bootstrap sees to it that somebody can administer the gateway: at a first
// start it makes a key of RoleAdmin in OperatorTenant and writes its text to
// the file at path (mode 0600), and nowhere else. It reports whether a key took
// effect. It must run alone, under the lock of the state folder.
//
// Where something is there already:
//
//	the file, and its key in the store  -> nothing is done, also where the key was revoked
//	the file, and no such key           -> the key of the file takes effect: the store was
//	                                       lost, or the first start broke off in between
//	no file, a usable admin key         -> nothing is done: the file was put away on purpose
//	no file, no usable admin key        -> a new key; so to regain access after the last
//	                                       admin key is gone, remove the file and restart
//
// A file that is not a key, is not a plain file, is open to others, or has
// another secret than its key in the store is an error; it is never overwritten.
//
// It calls before with the key as it will be, and the key takes effect only
// where before returned nil.
func (k *APIKeys) Bootstrap(ctx context.Context, path string, before func(execution.Key) error) (bool, error) {
	text, err := readKeyFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if usable, err := k.hasAdmin(ctx); usable || err != nil {
			return false, err
		}
		// The file goes first: a key that is in the store and nowhere else could
		// never be used, while one that is only in the file is taken up next time.
		_, text, _ = newKey(time.Now())
		if err := writeKeyFile(path, text); err != nil {
			return false, fmt.Errorf("write admin key: %w", err)
		}
	case err != nil:
		return false, fmt.Errorf("read admin key: %w", err)
	}

	id, hash, ok := parseKey(text)
	if !ok {
		return false, fmt.Errorf("read admin key: %s does not hold an API key; move it away to have a new one made", path)
	}
	key, err := k.store.Key(ctx, id)
	switch {
	case err == nil && key.Hash != hash:
		return false, fmt.Errorf("read admin key: %s has another secret than key %s; move it away", path, id)
	case err == nil:
		return false, nil
	case execution.KindOf(err) != execution.KindNotFound:
		return false, fmt.Errorf("read admin key: %w", err)
	}
	key = execution.Key{
		ID: id, Tenant: OperatorTenant, Roles: []execution.Role{execution.RoleAdmin}, Hash: hash,
		Label: "made at the first start", Created: time.Now().UTC().Truncate(time.Millisecond),
	}
	if err := before(key); err != nil {
		return false, err
	}
	if err := k.store.InsertKey(ctx, key); err != nil {
		return false, fmt.Errorf("create admin key: %w", err)
	}
	return true, nil
}

// hasAdmin reports whether some admin key of the operator is in force.
func (k *APIKeys) hasAdmin(ctx context.Context) (bool, error) {
	keys, err := k.store.Keys(ctx)
	if err != nil {
		return false, fmt.Errorf("look for an admin key: %w", err)
	}
	now := time.Now()
	for _, key := range keys {
		p := execution.Principal{Roles: key.Roles}
		if key.Tenant == OperatorTenant && p.Has(execution.RoleAdmin) && key.Revoked.IsZero() &&
			(key.Expires.IsZero() || now.Before(key.Expires)) {
			return true, nil
		}
	}
	return false, nil
}

// readKeyFile reads the text of a key. A last line break is forgiven: editors
// and `echo` add one.
func readKeyFile(path string) (execution.Secret, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return execution.Secret{}, err
	}
	if !info.Mode().IsRegular() {
		return execution.Secret{}, fmt.Errorf("%s is not a plain file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return execution.Secret{}, fmt.Errorf("%s is open to others (mode %04o); run: chmod 600 %[1]s", path, info.Mode().Perm())
	}
	if info.Size() > int64(keyLength)+1 {
		return execution.Secret{}, fmt.Errorf("%s does not hold an API key; move it away to have a new one made", path)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return execution.Secret{}, err
	}
	return execution.NewSecret(strings.TrimSuffix(string(content), "\n")), nil
}

// writeKeyFile writes text to path so that after a crash there is either the
// whole file or none.
func writeKeyFile(path string, text execution.Secret) (err error) {
	dir := filepath.Dir(path)
	// CreateTemp opens with O_EXCL and mode 0600.
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temp.Name())
		}
	}()
	_, err = temp.WriteString(text.Reveal() + "\n")
	if err = errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
