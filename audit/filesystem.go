package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileSystem is what a Log needs of the disk. It exists so that a test can make
// any call fail; everything else leaves Config.FileSystem nil and uses the
// operating system's.
type FileSystem interface {
	// OpenFile opens or makes a file as os.OpenFile does.
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	// MkdirAll makes a folder as os.MkdirAll does.
	MkdirAll(dir string, perm fs.FileMode) error
	// ReadDir returns the names in a folder.
	ReadDir(dir string) ([]string, error)
	// Rename moves a file over another; durable after SyncDir.
	Rename(from, to string) error
	// Remove removes a file; durable after SyncDir.
	Remove(name string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
	// Identify says which file a name leads to, without following a link.
	Identify(name string) (Identity, error)
	// Lock takes the exclusive lock of a folder, until the closer is closed or
	// the process ends. It does not wait.
	Lock(dir string) (io.Closer, error)
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Writeback has the n bytes from off on begin their way to the disk, and does not
	// wait for them (sync_file_range(2)): that they are durable says only Datasync.
	// Where the system has no such call it does nothing.
	Writeback(off, n int64) error
	// Datasync returns when what was written can be read again after a power
	// loss (fdatasync(2)).
	Datasync() error
	// Allocate makes the file at least size bytes long and takes the space for
	// them, so that writing there cannot meet a full disk (fallocate(2)).
	Allocate(size int64) error
	// Identify says which file this is.
	Identify() (Identity, error)
}

// Identity tells files apart, also those that had one name one after another.
type Identity struct {
	Device, Inode uint64
	Links         uint64 // names that lead to the file; 0 once it is removed
	Size          int64  // bytes
	Mode          fs.FileMode
}

// same reports whether both are one file.
func (id Identity) same(other Identity) bool {
	return id.Device == other.Device && id.Inode == other.Inode
}

// osFileSystem is the operating system's.
type osFileSystem struct{}

func (osFileSystem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	return &osFile{File: f, fd: int(f.Fd())}, nil
}

func (osFileSystem) MkdirAll(dir string, perm fs.FileMode) error { return os.MkdirAll(dir, perm) }
func (osFileSystem) Rename(from, to string) error                { return os.Rename(from, to) }
func (osFileSystem) Remove(name string) error                    { return os.Remove(name) }

func (osFileSystem) ReadDir(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func (osFileSystem) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (osFileSystem) Identify(name string) (Identity, error) {
	return identify(unix.AT_FDCWD, name, unix.AT_SYMLINK_NOFOLLOW)
}

func (osFileSystem) Lock(dir string) (io.Closer, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = ignoreEINTR(func() error { return unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		d.Close()
		return nil, &fs.PathError{Op: "flock", Path: dir, Err: err}
	}
	return locked{d}, nil
}

// locked is a folder whose lock ends with it. A process that is being started has a copy
// of every descriptor until it executes its program, and the lock would last as long
// (flock(2)).
type locked struct{ *os.File }

func (l locked) Close() error {
	err := ignoreEINTR(func() error { return unix.Flock(int(l.Fd()), unix.LOCK_UN) })
	return errors.Join(err, l.File.Close())
}

// osFile is a file of the operating system. It keeps the descriptor's number,
// because asking os.File for it each time takes a lock.
type osFile struct {
	*os.File
	fd int
}

func (f *osFile) Writeback(off, n int64) error {
	err := ignoreEINTR(func() error { return unix.SyncFileRange(f.fd, off, n, unix.SYNC_FILE_RANGE_WRITE) })
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return &fs.PathError{Op: "sync_file_range", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Datasync() error {
	if err := ignoreEINTR(func() error { return unix.Fdatasync(f.fd) }); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Allocate(size int64) error {
	if err := ignoreEINTR(func() error { return unix.Fallocate(f.fd, 0, 0, size) }); err != nil {
		return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	return nil
}

func (f *osFile) Identify() (Identity, error) {
	return identify(f.fd, "", unix.AT_EMPTY_PATH)
}

// identify asks for no time stamp. With multigrain time stamps (Linux 6.13) the
// first write after a stamp was looked at has to store a new one, and the next
// fdatasync then costs half as much again.
func identify(dir int, name string, flags int) (Identity, error) {
	var st unix.Statx_t
	const mask = unix.STATX_INO | unix.STATX_NLINK | unix.STATX_SIZE | unix.STATX_MODE
	err := ignoreEINTR(func() error { return unix.Statx(dir, name, flags, mask, &st) })
	if err != nil {
		return Identity{}, &fs.PathError{Op: "statx", Path: name, Err: err}
	}
	return Identity{
		Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino, Links: uint64(st.Nlink),
		Size: int64(st.Size), Mode: fs.FileMode(st.Mode & 0o777),
	}, nil
}

func ignoreEINTR(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// readHead returns up to the first limit bytes of a file.
func readHead(fsys FileSystem, name string, limit int) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, limit)
	n, err := f.ReadAt(data, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return data[:n], nil
}

// moveFile gives a file in dir another name, durably.
func moveFile(fsys FileSystem, dir, from, to string) error {
	if err := fsys.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// replaceFile makes name hold data, durably, or leaves it as it was.
func replaceFile(fsys FileSystem, dir, name string, data []byte, perm fs.FileMode) (err error) {
	path, temporary := dir+"/"+name, dir+"/"+name+".tmp"
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
			_ = fsys.Remove(temporary) // is replaced the next time
		}
	}()
	f, err := fsys.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Datasync(), f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temporary, path); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}
