package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/execgate/execgate/execution"
)

// sealKeyBytes is the size of a key of AES-256.
const sealKeyBytes = 32

// sealer encrypts what is kept of requests that await approval: AES-256-GCM with
// a random nonce of 96 bits before the text, which NIST SP 800-38D (8.3) allows
// for 2^32 texts under one key.
type sealer struct{ aead cipher.AEAD }

// newSealer uses the key in the file at path, of 32 bytes and mode 0600, which it
// makes where there is none. A key that others may read is refused.
func newSealer(path string) (*sealer, error) {
	key, err := readSealKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeSealKey(path); err == nil {
			key, err = readSealKey(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of approvals: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of approvals: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("key of approvals: %w", err)
	}
	return &sealer{aead}, nil
}

func readSealKey(path string) ([]byte, error) {
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
		return nil, fmt.Errorf("%s holds no key of %d bytes: restore it, or remove it, which voids every pending approval", path, sealKeyBytes)
	}
	return key, nil
}

// makeSealKey writes a new key so that after a crash there is a whole one or none.
func makeSealKey(path string) error {
	key := make([]byte, sealKeyBytes)
	rand.Read(key) // never fails; it ends the program instead
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(key)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (s *sealer) seal(text []byte, a Approval) []byte {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(text)+s.aead.Overhead())
	rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, text, sealedFor(a))
}

// open fails with KindGone, approval_unreadable, where sealed was not sealed with
// this key for this very approval.
func (s *sealer) open(sealed []byte, a Approval) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) >= n {
		if text, err := s.aead.Open(nil, sealed[:n], sealed[n:], sealedFor(a)); err == nil {
			return text, nil
		}
	}
	return nil, &execution.Error{Kind: execution.KindGone, Code: "approval_unreadable", Detail: "what was asked cannot be read any more"}
}

// sealedFor is the associated data: a row whose ids, owner or deadline were
// changed, or that was swapped with another, does not open.
func sealedFor(a Approval) []byte {
	return fmt.Appendf(nil, "execgate approval 1\x00%s\x00%s\x00%s\x00%s\x00%d", a.ID, a.Execution, a.Tenant, a.Subject, a.Expires.UnixMilli())
}
