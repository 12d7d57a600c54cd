//go:build minimal

// Server is Vault with the plugins that the tests use, and no others: it builds
// in a fraction of the time, since no cloud's client is part of it but Amazon's.
//
// The tag is Vault's own for a build with few plugins. It also keeps this
// package from whatever checks the module, which would have to build Vault.
package main

import (
	"fmt"
	"os"
	"reflect"
	"unsafe"

	credKubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	logicalAWS "github.com/hashicorp/vault/builtin/logical/aws"
	"github.com/hashicorp/vault/command"
	"github.com/hashicorp/vault/helper/builtinplugins"
	dbPostgres "github.com/hashicorp/vault/plugins/database/postgresql"
)

func main() {
	// A minimal Vault has approle, jwt, kv and pki, and token and database,
	// which are no plugins.
	add("credentialBackends", "kubernetes", credKubernetes.Factory)
	add("logicalBackends", "aws", logicalAWS.Factory)
	add("databasePlugins", "postgresql-database-plugin", dbPostgres.New)
	os.Exit(command.Run(os.Args[1:]))
}

// add puts a plugin into Vault's registry, whose maps have no way in: a plugin
// outside of the binary would have to be built, registered and run beside it,
// which no Vault on PATH needs. Another version may hold them otherwise, and
// then this panics at the first start, which is when it was built.
func add(field, name string, factory any) {
	registry := reflect.ValueOf(builtinplugins.Registry).Elem().FieldByName(field)
	if registry.Kind() != reflect.Map {
		panic(fmt.Sprintf("Vault's registry has no map %s", field))
	}
	plugins := reflect.NewAt(registry.Type(), unsafe.Pointer(registry.UnsafeAddr())).Elem()
	plugin := reflect.New(plugins.Type().Elem()).Elem()
	value := plugin.FieldByName("Factory")
	value.Set(reflect.ValueOf(factory).Convert(value.Type()))
	plugins.SetMapIndex(reflect.ValueOf(name), plugin)
}
