package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"go.yaml.in/yaml/v3"
)

// configFile is where in the state folder it stands what the last start's
// configuration was, by digests under a key: no value can be told from it, nor guessed.
const configFile = "config.digests"

// rememberedConfig is the content of configFile.
type rememberedConfig struct {
	Key      []byte            `json:"key"`
	Digest   string            `json:"digest"` // of the whole configuration
	Settings map[string]string `json:"settings"`
}

// recordConfig records where the configuration differs from that of the last start, or
// at the first one from the defaults. What is recorded twice, after a crash at the
// wrong moment, does no harm.
func recordConfig(ctx context.Context, cfg Config, state *state, log *audit.Log) error {
	last, err := lastConfig(state.path(configFile))
	if err != nil {
		return err
	}
	now := rememberedConfig{Key: last.Key, Settings: digestSettings(cfg, last.Key)}
	now.Digest = digestUnder(now.Key, now.Settings)
	if now.Digest == last.Digest {
		return nil
	}
	changed := []string{}
	for _, name := range slices.Sorted(maps.Keys(now.Settings)) {
		if now.Settings[name] != last.Settings[name] {
			changed = append(changed, name)
		}
	}
	if _, err := log.Append(ctx, execution.Record{
		Type: execution.RecordConfigChanged, Config: &execution.ConfigChange{Digest: now.Digest, Changed: changed},
	}); err != nil {
		return err
	}
	text, err := json.Marshal(now)
	if err != nil {
		return fmt.Errorf("remember the configuration: %w", err)
	}
	if err := replaceFile(state.path(configFile), string(text)+"\n"); err != nil {
		return fmt.Errorf("remember the configuration: %w", err)
	}
	return nil
}

// lastConfig is the configuration of the last start; where there was none, or the file
// is not what was written, that of the defaults, with a new key and without a digest.
func lastConfig(path string) (rememberedConfig, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return rememberedConfig{}, fmt.Errorf("read the last configuration: %w", err)
	}
	var last rememberedConfig
	if err == nil && json.Unmarshal(text, &last) == nil && len(last.Key) == sha256.Size {
		return last, nil
	}
	last = rememberedConfig{Key: make([]byte, sha256.Size)}
	rand.Read(last.Key) // never fails; it ends the program instead
	last.Settings = digestSettings(defaultConfig(), last.Key)
	return last, nil
}

// digestSettings is every setting by its name in the file, lists as one, with a digest
// of its value under key.
func digestSettings(cfg Config, key []byte) map[string]string {
	digests := map[string]string{}
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for field, value := range v.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("yaml"), ",")
			if !field.IsExported() {
				continue
			}
			if value.Kind() == reflect.Struct {
				walk(prefix+name+".", value)
				continue
			}
			digests[prefix+name] = digestUnder(key, value.Interface())
		}
	}
	walk("", reflect.ValueOf(cfg))
	return digests
}

// digestUnder is the HMAC of a value as YAML, which has the names that settings have.
func digestUnder(key []byte, value any) string {
	text, err := yaml.Marshal(value)
	if err != nil {
		panic(err) // a setting is text, a number, or lists of them
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(text)
	return hex.EncodeToString(mac.Sum(nil))
}
