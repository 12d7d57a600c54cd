//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/execgate/execgate/executor/wire"
)

// secret is a file that only its program may have. It is held open, so that its
// content can be taken away wherever the program has put it.
type secret struct {
	folder string // a writable mount
	name   string // below it
	file   *os.File
}

// laySecrets writes files for the program alone, as its user.
func (r *round) laySecrets() error {
	for _, given := range r.start.Secrets {
		laid, err := laySecret(given)
		if err != nil {
			return err
		}
		r.secrets = append(r.secrets, laid)
	}
	return nil
}

// laySecret makes a file, which must not be there. Its error names the path and
// nothing of the content.
func laySecret(given wire.SecretFile) (*secret, error) {
	s := &secret{}
	for _, folder := range []string{wire.Workspace, "/tmp"} {
		if below, ok := strings.CutPrefix(given.Path, folder+"/"); ok {
			s.folder, s.name = folder, below
		}
	}
	if s.folder == "" {
		return nil, fmt.Errorf("no credential may be at %s", given.Path)
	}
	root, err := os.OpenRoot(s.folder)
	if err != nil {
		return nil, fmt.Errorf("lay the credential %s: %w", given.Path, err)
	}
	defer root.Close()
	switch err := plain(root, s.name); {
	case err == nil:
		return nil, fmt.Errorf("lay the credential %s: a file is there", given.Path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("lay the credential %s: %w", given.Path, err)
	}
	if err := root.MkdirAll(path.Dir(s.name), 0o755); err != nil {
		return nil, fmt.Errorf("lay the credential %s: %w", given.Path, err)
	}
	if s.file, err = root.OpenFile(s.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400); err != nil {
		return nil, fmt.Errorf("lay the credential %s: %w", given.Path, err)
	}
	if _, err := s.file.WriteString(given.Content); err != nil {
		s.remove()
		return nil, fmt.Errorf("lay the credential %s: %w", given.Path, err)
	}
	return s, nil
}

// removeSecrets takes the files away again, as the program's user. Nothing of the
// program runs any more.
func (r *round) removeSecrets() error {
	var errs []error
	for _, s := range r.secrets {
		errs = append(errs, s.remove())
	}
	r.secrets, r.start.Secrets = nil, nil
	return errors.Join(errs...)
}

// remove empties the file wherever it is, and removes its name. The error is that
// it could not be emptied.
func (s *secret) remove() error {
	err := s.file.Truncate(0)
	s.file.Close()
	if root, err := os.OpenRoot(s.folder); err == nil {
		root.Remove(s.name) // the program may have moved it, or put another thing there
		root.Close()
	}
	if err != nil {
		return fmt.Errorf("empty a credential: %w", err)
	}
	return nil
}
