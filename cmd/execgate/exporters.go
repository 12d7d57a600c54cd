package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/execgate/execgate/audit"
	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/export"
	"github.com/execgate/execgate/gateway"
	"go.yaml.in/yaml/v3"
)

// ExporterConfig is one system that audit records are delivered to; see export.Sink.
type ExporterConfig struct {
	Name       string                 `yaml:"name"`
	Type       export.Type            `yaml:"type"`
	Path       string                 `yaml:"path"`
	URL        string                 `yaml:"url"`
	Address    string                 `yaml:"address"`
	Format     export.Format          `yaml:"format"`
	TokenFile  string                 `yaml:"token_file"`
	CAFile     string                 `yaml:"ca_file"`
	ClientCert string                 `yaml:"client_cert"`
	ClientKey  string                 `yaml:"client_key"`
	Gzip       bool                   `yaml:"gzip"`
	From       export.From            `yaml:"from"`
	Tenants    []string               `yaml:"tenants"`
	Types      []execution.RecordType `yaml:"types"`

	Node *yaml.Node `yaml:"-"` // where it stands
}

func (e *ExporterConfig) standsAt(node *yaml.Node) { e.Node = node }

// line is where in the file the key stands, or else the exporter.
func (e ExporterConfig) line(key string) int {
	if e.Node == nil {
		return 0
	}
	for i := 0; i+1 < len(e.Node.Content); i += 2 {
		if e.Node.Content[i].Value == key {
			return e.Node.Content[i].Line
		}
	}
	return e.Node.Line
}

// sinks are the exporters as the package export takes them.
func (c Config) sinks() []export.Sink {
	var sinks []export.Sink
	for _, e := range c.Exporters {
		sinks = append(sinks, export.Sink{
			Name: e.Name, Type: e.Type, Path: e.Path, URL: e.URL, Address: e.Address, Format: e.Format, TokenFile: e.TokenFile,
			CAFile: e.CAFile, ClientCert: e.ClientCert, ClientKey: e.ClientKey, Gzip: e.Gzip, From: e.From, Tenants: e.Tenants, Types: e.Types,
		})
	}
	return sinks
}

// checkExporters reports what is wrong with them, each with its line.
func (c Config) checkExporters() []error {
	var errs []error
	sinks := c.sinks()
	clashes := export.Clashes(sinks)
	for i, s := range sinks {
		faults := s.Check()
		if clash, ok := clashes[i]; ok {
			faults = append(faults, clash)
		}
		for _, f := range faults {
			errs = append(errs, fmt.Errorf("line %d: exporters[%d].%s %s", c.Exporters[i].line(f.Key), i, f.Key, f.Detail))
		}
	}
	return errs
}

// newExporters makes those that are configured. They start nothing.
func newExporters(cfg Config, s *state, log *audit.Log, logger *slog.Logger) (*export.Exporters, error) {
	for i, e := range cfg.Exporters {
		// A line within a segment would be damage to the log.
		if within(e.Path, s.dir) {
			return nil, usage("configuration: line %d: exporters[%d].path must not lie in the state folder", e.line("path"), i)
		}
	}
	return export.New(export.Config{
		Log: log, LogID: log.ID(), Dir: s.path(exportFolder), Sinks: cfg.sinks(), Version: version(), Logger: logger,
	})
}

// within reports whether path lies in dir, however it is written.
func within(path, dir string) bool {
	if path == "" || path == export.Stdout {
		return false
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(real, filepath.Base(path))
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// exportFolder is the folder of cursors, within the state folder.
const exportFolder = "export"

// delivering warns in /readyz of exporters that do not deliver. The gateway works all
// the same.
type delivering struct {
	exporters interface{ Stats() []export.Stats }
}

// Ready implements gateway.Prober. It is public, and does not say what is wrong.
func (d delivering) Ready(context.Context) error {
	var failing []string
	for _, s := range d.exporters.Stats() {
		if s.Failing != "" {
			failing = append(failing, fmt.Sprintf("%s (%d records wait)", s.Name, s.LagRecords))
		}
	}
	if len(failing) == 0 {
		return nil
	}
	return gateway.Warning("these exporters of audit records do not deliver: " + strings.Join(failing, ", ") + "; the gateway's log has why")
}

// surviveHangups keeps SIGHUP from ending the process, as long as there are exporters of
// files: those who rotate files send it. There is nothing to be done about it: the path is
// looked at with each write.
func surviveHangups(cfg Config) (restore func()) {
	if !slices.ContainsFunc(cfg.Exporters, func(e ExporterConfig) bool { return e.Type == export.TypeJSONL }) {
		return func() {}
	}
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGHUP)
	return func() { signal.Stop(ignored) }
}
