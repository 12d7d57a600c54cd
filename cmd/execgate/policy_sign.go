package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/execgate/execgate/policy"
	"github.com/spf13/cobra"
)

// The files of a key pair are called by its name and these.
const (
	privateSuffix = ".key"
	publicSuffix  = ".pub"
)

func newPolicyKeygen() *cobra.Command {
	return &cobra.Command{
		Use:   "keygen NAME",
		Short: "Make a key that signs policies",
		Long: `Make an Ed25519 key: NAME.key, which signs and stays with those who release
policies, and NAME.pub, which gateways are given to check by. Both are PEM.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			private, public, err := policy.GenerateKey()
			if err != nil {
				return err
			}
			if err := writeNew(given[0]+privateSuffix, private, 0o600); err != nil {
				return err
			}
			if err := writeNew(given[0]+publicSuffix, public, 0o644); err != nil {
				return errors.Join(err, os.Remove(given[0]+privateSuffix))
			}
			keys, err := policy.ParsePublicKeys(public)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), policy.KeyID(keys[0]))
			return err
		},
	}
}

// writeNew writes a file that must not be there yet: a key that is overwritten is
// lost.
func writeNew(path string, content []byte, mode os.FileMode) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return usage("write the key: %w", err)
	}
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the key: %w", err), os.Remove(path))
	}
	return nil
}

func newPolicySign() *cobra.Command {
	var keyFile string
	var sequence uint64
	cmd := &cobra.Command{
		Use:   "sign DIR|FILE --key NAME.key",
		Short: "Sign a policy, a folder or an archive, as a release",
		Long: `Sign the files of a policy, and put the signature into it as .signature.json.

A gateway that is given public keys takes a policy only with a signature of one
of them, and with a sequence above every one that it has had in force. The
sequence is the time in seconds since 1970, which rises by itself, unless
--sequence says another.`,
		Example: "  execgate policy sign my-policy.tar.gz --key release.key",
		Args:    args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			if !cmd.Flags().Changed("sequence") {
				sequence = uint64(time.Now().Unix())
			}
			s, err := signPolicy(given[0], keyFile, sequence)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s as %d by %s\n", s.Digest, s.Sequence, s.Key)
			return err
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file with the private key, as execgate policy keygen makes it")
	cmd.Flags().Uint64Var(&sequence, "sequence", 0, "number of the release, which must rise (default the time in seconds since 1970)")
	required(cmd, "key")
	return cmd
}

// signPolicy signs the policy at path in its place.
func signPolicy(path, keyFile string, sequence uint64) (*policy.Signature, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, usage("--key: %w", err)
	}
	key, err := policy.ParsePrivateKey(text)
	if err != nil {
		return nil, usage("--key %s: %w", keyFile, err)
	}
	b, err := readPolicy(path)
	if err != nil {
		return nil, err
	}
	if b.signature != nil && b.signature.Sequence > sequence {
		return nil, usage("the policy was signed as %d already, and %d is not above that: a gateway would refuse it", b.signature.Sequence, sequence)
	}
	if b.signature, err = policy.Sign(key, b.files, sequence); err != nil {
		return nil, usage("--sequence: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return b.signature, b.write(path)
	}
	file := filepath.Join(path, policy.SignatureName)
	if err := replaceFile(file, string(b.signature.Text())); err != nil {
		return nil, fmt.Errorf("write the signature: %w", err)
	}
	return b.signature, os.Chmod(file, 0o644)
}
