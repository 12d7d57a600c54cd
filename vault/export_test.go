package vault

import "github.com/execgate/execgate/execution"

// Trusted is how long Vault is taken to be there after it did something.
const Trusted = trusted

// PathOf is where a credential is read.
func PathOf(m Mounts, c execution.Credential) (string, error) {
	_, path, err := m.resolve(c)
	return path, err
}
