package main

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// envPrefix begins the name of the variable that overrides a setting:
// requests.max_running is EXECGATE_REQUESTS_MAX_RUNNING.
const envPrefix = "EXECGATE_"

// loadConfig joins the environment, the file at path, where one is given, and
// the defaults. It does not validate the values: flags may still change them.
func loadConfig(path string, lookup func(string) (string, bool)) (Config, error) {
	cfg := defaultConfig()
	if path != "" {
		if err := readConfigFile(path, &cfg); err != nil {
			return cfg, usage("configuration %s: %w", path, err)
		}
	}
	var errs []error
	for _, s := range settingsOf(&cfg) {
		// An empty variable counts as none: composed environments leave those.
		if text, ok := lookup(s.variable()); ok && text != "" {
			errs = append(errs, s.set(text))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return cfg, usage("configuration: %w", err)
	}
	return cfg, nil
}

// setting is one leaf of a Config.
type setting struct {
	key   string // such as requests.max_running
	value reflect.Value
}

// settingsOf returns every setting of cfg, in the order of the fields.
func settingsOf(cfg *Config) []setting {
	var all []setting
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for field, value := range v.Fields() {
			key := prefix + field.Tag.Get("yaml")
			switch value.Kind() {
			case reflect.Struct:
				walk(key+".", value)
			case reflect.Slice: // of groups of keys, which no variable can hold
			default:
				all = append(all, setting{key, value})
			}
		}
	}
	walk("", reflect.ValueOf(cfg).Elem())
	return all
}

// variable is the name of the environment variable of the setting.
func (s setting) variable() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.key, ".", "_"))
}

// set reads text as the setting's type.
func (s setting) set(text string) error {
	switch s.value.Kind() {
	case reflect.String:
		s.value.SetString(text)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, s.value.Type().Bits())
		if err != nil {
			return fmt.Errorf("%s must be a whole number", s.variable())
		}
		s.value.SetInt(n)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%s must be true or false", s.variable())
		}
		s.value.SetBool(text == "true")
	case reflect.Map:
		if s.value.Type().Elem().Kind() == reflect.String {
			return s.setNames(text)
		}
		table := map[string]int{}
		for entry := range strings.SplitSeq(text, ",") {
			name, number, _ := strings.Cut(entry, "=")
			n, err := strconv.Atoi(number)
			if _, again := table[name]; err != nil || again {
				return fmt.Errorf("%s must be name=number, each name once, separated by commas", s.variable())
			}
			table[name] = n
		}
		s.value.Set(reflect.ValueOf(table))
	default:
		return fmt.Errorf("%s: a setting of kind %s cannot be read from the environment", s.variable(), s.value.Kind())
	}
	return nil
}

// setNames reads text as a table of names.
func (s setting) setNames(text string) error {
	table := map[string]string{}
	for entry := range strings.SplitSeq(text, ",") {
		name, value, found := strings.Cut(entry, "=")
		if _, again := table[name]; !found || again {
			return fmt.Errorf("%s must be name=text, each name once, separated by commas", s.variable())
		}
		table[name] = value
	}
	s.value.Set(reflect.ValueOf(table))
	return nil
}

// strangers are the variables in environ, as of os.Environ, that look like
// settings and are none: slips of the pen. Kubernetes sets EXECGATE_PORT and
// EXECGATE_SERVICE_HOST where a service is called execgate.
func strangers(environ []string) []string {
	known := map[string]bool{envURL: true, envKey: true}
	for _, s := range settingsOf(&Config{}) {
		known[s.variable()] = true
	}
	var out []string
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix) && !known[name] &&
			!strings.HasPrefix(name, envPrefix+"PORT") && !strings.HasPrefix(name, envPrefix+"SERVICE_") {
			out = append(out, name)
		}
	}
	return out
}
