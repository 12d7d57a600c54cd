package activation

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/execgate/execgate/policy"
	"github.com/fsnotify/fsnotify"
)

// mounted is the link to the folder with the files of the moment, in a volume that
// Kubernetes mounts of a ConfigMap or a Secret: it is swapped at once for one to a
// new folder. The files beside it are links into it.
const mounted = "..data"

// ReadFolder reads the bundle in a folder. Links lead nowhere, but for the one by
// which a mounted ConfigMap names its files of the moment.
func ReadFolder(folder string) (Candidate, error) {
	c := Candidate{Source: folder}
	root, err := os.OpenRoot(folder) // holds also against links put there while it is read
	if err != nil {
		return c, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	err = c.read(root)
	return c, err
}

// read reads the bundle in a folder.
func (c *Candidate) read(root *os.Root) error {
	if info, err := root.Lstat(mounted); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		now, err := root.OpenRoot(mounted)
		if err != nil {
			return err
		}
		defer now.Close() //nolint:errcheck // it was only read
		root = now
	}
	files, err := policy.ReadFiles(root.FS())
	if err != nil {
		return err
	}
	c.Files = files
	c.Signature, err = policy.ReadSignature(root.FS())
	return err
}

// settle is how long a folder must have been left alone before it is read: files
// are seldom changed all at once.
const settle = 300 * time.Millisecond

// settleAtMost is how long a folder is waited for that is not left alone.
const settleAtMost = 10 * time.Second

// lookAgain is when changed is called again where it asks for that.
const lookAgain = 5 * time.Second

// Watch calls changed when something in folder has changed, or the folder itself is
// another, and it has been left alone for a moment, until ctx ends. It is told of
// more than counts, and of nothing twice at once. An error means that the folder
// cannot be watched. It may be a single file, too.
func Watch(ctx context.Context, folder string, logger *slog.Logger, changed func(context.Context) (again bool)) error {
	folder = filepath.Clean(folder)
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", folder, err)
	}
	defer watcher.Close() //nolint:errcheck // nothing was written
	if err := watchAll(watcher, folder); err != nil {
		return fmt.Errorf("watch %s: %w", folder, err)
	}
	// It may be replaced as a whole, which only the folder that it stands in tells.
	if err := watcher.Add(filepath.Dir(folder)); err != nil {
		return fmt.Errorf("watch %s: %w", folder, err)
	}
	quiet := time.NewTimer(0) // what changed before it was watched is seen too
	defer quiet.Stop()
	var since time.Time // the first change that was not told of
	put := func() {
		if since.IsZero() {
			since = time.Now()
		}
		quiet.Reset(max(0, min(settle, settleAtMost-time.Since(since))))
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, open := <-watcher.Events:
			if !open {
				return fmt.Errorf("watch %s: the watch has ended", folder)
			}
			// And not a neighbour of the folder's. A file that is mounted is a link through one.
			if path := filepath.Clean(event.Name); within(folder, path) || path == filepath.Join(filepath.Dir(folder), mounted) {
				put()
			}
		case err := <-watcher.Errors:
			// Events may be lost: looking again loses nothing.
			logger.WarnContext(ctx, "watching the policy's folder", "folder", folder, "error", err)
			put()
		case <-quiet.C:
			if err := watchAll(watcher, folder); err != nil {
				logger.WarnContext(ctx, "watching the policy's folder", "folder", folder, "error", err)
			}
			since = time.Time{}
			if changed(ctx) {
				quiet.Reset(lookAgain)
			}
		}
	}
}

// within reports whether path is folder, or in it.
func within(folder, path string) bool {
	return path == folder || folder == "." || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

// watchAll watches a folder and those in it, as far as they count. One that is
// watched already is not watched twice.
func watchAll(watcher *fsnotify.Watcher, folder string) error {
	return filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && path != folder:
			return nil // gone in the meantime
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case path != folder && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir
		}
		return watcher.Add(path)
	})
}
