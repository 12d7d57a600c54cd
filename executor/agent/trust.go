//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"github.com/execgate/execgate/executor/wire"
	"golang.org/x/sys/unix"
)

// imageRoots are where images have the certificates that they trust, in one file;
// the first that is there counts (those of Go's crypto/x509, root_linux.go).
var imageRoots = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // CentOS, RHEL
	"/etc/ssl/cert.pem",                                 // Alpine
}

// maxRoots bounds that file, in bytes. Mozilla's authorities are 220 KiB.
const maxRoots = 2 << 20

// trust is the certificate authority that the sandbox's programs are to trust
// beside those of the image, and the file that says so. The file is the programs'
// own, not a protection from them: where they share the agent's user they may put
// another in its place, until the next one is started.
type trust struct {
	authority []byte   // as PEM; nil: there is none
	laid      [3]int64 // the file as it was laid, by timeOf; zero: it is not
}

// errTrust is in the error of a file that could not be laid.
var errTrust = errors.New("lay the certificates to trust")

// certify takes the sandbox's authority, before anything is started that trusts
// it. Why the file cannot be laid is told the first program that needs it.
func (a *agent) certify(frame wire.Frame) {
	a.trust = trust{authority: frame.Payload}
	if a.trust.lay() == nil {
		a.before = look() // no program has left it
	}
}

// lay makes the file, unless it stands as it was laid. No program runs meanwhile.
func (t *trust) lay() error {
	if t.authority == nil {
		return fmt.Errorf("%w: the sandbox has no certificate authority", errTrust)
	}
	if info, err := os.Lstat(wire.TrustPath); err == nil && t.laid != [3]int64{} && timeOf(info) == t.laid {
		return nil
	}
	if err := t.replace(); err != nil {
		return fmt.Errorf("%w: %w", errTrust, err)
	}
	return nil
}

// replace makes the file anew, in the place of whatever is there.
func (t *trust) replace() (err error) {
	folder, name := path.Split(wire.TrustPath)
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer func() {
		file.Close()
		if err != nil {
			root.Remove(name) // a part of it would be trusted for the whole
		}
	}()
	if err := copyRoots(file); err != nil {
		return err
	}
	// A file may end without a newline, and two are none too many.
	if _, err := file.Write(append([]byte("\n"), t.authority...)); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	t.laid = timeOf(info)
	return nil
}

// copyRoots copies what the image trusts. An image may have nothing.
func copyRoots(to io.Writer) error {
	for _, name := range imageRoots {
		file, err := openOfImage(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer file.Close()
		return pass(to, file)
	}
	return nil
}

// openOfImage opens a file of the image's own, of at most maxRoots bytes. A link may
// lead to it, but not out of the image's file system.
func openOfImage(name string) (_ *os.File, err error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxRoots {
		return nil, fmt.Errorf("%s of the image is no regular file of at most %d bytes", name, maxRoots)
	}
	var itself, whole unix.Statfs_t
	if err := errors.Join(unix.Fstatfs(int(file.Fd()), &itself), unix.Statfs("/", &whole)); err != nil {
		return nil, err
	}
	if itself.Type != whole.Type {
		return nil, fmt.Errorf("%s of the image is a link that leads out of it", name)
	}
	return file, nil
}
