package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/execgate/execgate/policy"
	"github.com/spf13/cobra"
)

func newPolicyBundle() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "bundle DIR --to FILE",
		Short: "Make one archive of a policy, as gateways and OPA bundle servers take it",
		Long: `Make a gzip-compressed tar archive of those files of a policy that count, with
its signature where it has one, and print the digest of the files. The same
files give the same archive.`,
		Example: "  execgate policy bundle my-policy --to my-policy.tar.gz",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			b, err := readFolder(given[0])
			if err != nil {
				return err
			}
			if err := b.write(to); err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), b.files.Digest())
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "file to write the archive to, in the place of what is there")
	required(cmd, "to")
	return cmd
}

// signedFiles are the files of a policy, and its signature where it has one.
type signedFiles struct {
	files     policy.Files
	signature *policy.Signature // nil: it has none
}

// readPolicy reads a policy that is a folder or an archive.
func readPolicy(path string) (signedFiles, error) {
	info, err := os.Stat(path)
	if err != nil {
		return signedFiles{}, usage("policy: %w", err)
	}
	if info.IsDir() {
		return readFolder(path)
	}
	file, err := os.Open(path)
	if err != nil {
		return signedFiles{}, usage("policy: %w", err)
	}
	defer file.Close()
	var b signedFiles
	if b.files, b.signature, err = policy.ReadArchive(file); err != nil {
		return b, fmt.Errorf("%s: %w", path, err)
	}
	return b, b.check(path)
}

func readFolder(path string) (b signedFiles, err error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return b, usage("policy: %w", err)
	}
	defer root.Close()
	if b.files, err = policy.ReadFiles(root.FS()); err != nil {
		return b, fmt.Errorf("%s: %w", path, err)
	}
	if b.signature, err = policy.ReadSignature(root.FS()); err != nil {
		return b, fmt.Errorf("%s: %w", path, err)
	}
	return b, b.check(path)
}

// check refuses a policy without files, which is a slip of the hand.
func (b signedFiles) check(path string) error {
	if len(b.files) == 0 {
		return usage("%s: there is neither a .rego file nor a data.json", path)
	}
	return nil
}

// fits refuses a signature over other files. Whether its key is trusted is for the
// gateway to say.
func (b signedFiles) fits() error {
	if b.signature != nil && b.signature.Digest != b.files.Digest() {
		return fmt.Errorf("the files were changed since they were signed: sign them again by execgate policy sign, or remove %s", policy.SignatureName)
	}
	return nil
}

// archive is the policy in one piece.
func (b signedFiles) archive() ([]byte, error) {
	if err := b.fits(); err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	if err := policy.WriteArchive(&archive, b.files, b.signature); err != nil {
		return nil, err
	}
	if archive.Len() > policy.MaxArchiveBytes {
		return nil, fmt.Errorf("the archive has %d MiB, and a gateway takes at most %d", archive.Len()>>20, policy.MaxArchiveBytes>>20)
	}
	return archive.Bytes(), nil
}

// write writes the archive to path, all of it or nothing.
func (b signedFiles) write(path string) error {
	archive, err := b.archive()
	if err != nil {
		return err
	}
	if err := replaceFile(path, string(archive)); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return os.Chmod(path, 0o644)
}
