package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/execgate/execgate/vault"
)

// VaultConfig is about the Vault that credentials are lent from.
type VaultConfig struct {
	Address    string `yaml:"address"` // empty: there is none
	Plaintext  bool   `yaml:"plaintext"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`
	ClientCert string `yaml:"client_cert"`
	ClientKey  string `yaml:"client_key"`
	Namespace  string `yaml:"namespace"`
	TimeoutMS  int64  `yaml:"timeout_ms"`
	// Mounts are the engines that credentials may be read from, by their path.
	Mounts map[string]string `yaml:"mounts"`
	// CommonNames are asked for in certificates, by the path of the engine.
	CommonNames map[string]string `yaml:"common_names"`
	TokenRole   string            `yaml:"token_role"`
	MaxTTLS     int64             `yaml:"max_ttl_s"`
	Auth        VaultAuthConfig   `yaml:"auth"`
}

// VaultAuthConfig is how the gateway logs in to Vault.
type VaultAuthConfig struct {
	Method string `yaml:"method"`
	Mount  string `yaml:"mount"`
	File   string `yaml:"file"`
	Role   string `yaml:"role"`
	RoleID string `yaml:"role_id"`
}

// EgressConfig is about what leaves sandboxes.
type EgressConfig struct {
	// AllowedNetworks are prefixes that are not public, separated by commas, in which
	// policy may open destinations.
	AllowedNetworks string `yaml:"allowed_networks"`
	IdleTimeoutMS   int64  `yaml:"idle_timeout_ms"`
	// Resolver is the address of a DNS server; empty: the operating system looks
	// names up.
	Resolver string `yaml:"resolver"`
	// CAFile is the path of a file with authorities, beside those of the system, that
	// destinations' certificates may be from; empty: there are no more.
	CAFile string `yaml:"ca_file"`
	// UngrantedNames is what a program finds of a name that no rule is for.
	UngrantedNames string `yaml:"ungranted_names"`
}

// ungrantedNames are the values of egress.ungranted_names.
var ungrantedNames = []string{namesExplained, namesHidden}

const (
	namesExplained = "explain"
	namesHidden    = "nxdomain"
)

func defaultVault() VaultConfig {
	return VaultConfig{TimeoutMS: 5000, MaxTTLS: 24 * 60 * 60, Auth: VaultAuthConfig{Method: string(vault.AuthTokenFile)}}
}

// authMethods are the values of vault.auth.method.
var authMethods = []string{
	string(vault.AuthTokenFile), string(vault.AuthAppRole), string(vault.AuthKubernetes), string(vault.AuthJWT),
}

// check reports what is wrong with the settings that vault.New does not see.
func (c VaultConfig) check() error {
	var errs []error
	if !slices.Contains(authMethods, c.Auth.Method) {
		errs = append(errs, fmt.Errorf("vault.auth.method is %q: it is one of %q", c.Auth.Method, authMethods))
	}
	for _, path := range slices.Sorted(maps.Keys(c.CommonNames)) {
		if _, ok := c.Mounts[path]; !ok {
			errs = append(errs, fmt.Errorf("vault.common_names has %q, which is not among vault.mounts", path))
		}
	}
	return errors.Join(errs...)
}

// mounts are those of the package vault, in the order of their paths.
func (c VaultConfig) mounts() vault.Mounts {
	var mounts vault.Mounts
	for _, path := range slices.Sorted(maps.Keys(c.Mounts)) {
		mounts = append(mounts, vault.Mount{Path: path, Engine: c.Mounts[path], CommonName: c.CommonNames[path]})
	}
	return mounts
}

// check reports what is wrong with the settings.
func (c EgressConfig) check() error {
	_, err := c.networks()
	if !slices.Contains(ungrantedNames, c.UngrantedNames) {
		err = errors.Join(err, fmt.Errorf("egress.ungranted_names is %q: it is one of %q", c.UngrantedNames, ungrantedNames))
	}
	if c.Resolver == "" {
		return err
	}
	if _, addrErr := netip.ParseAddrPort(c.Resolver); addrErr != nil {
		err = errors.Join(err, fmt.Errorf("egress.resolver is %q: it must be an address and a port, such as 10.0.0.53:53", c.Resolver))
	}
	return err
}

// networks are the prefixes of AllowedNetworks.
func (c EgressConfig) networks() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for text := range strings.SplitSeq(c.AllowedNetworks, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("egress.allowed_networks has %q, which is no network such as 10.20.0.0/16", text)
		}
		all = append(all, prefix)
	}
	return all, nil
}
