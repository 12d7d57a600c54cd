package execution

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Request is what a caller asks for. Every field is untrusted.
type Request struct {
	// Language and Code, or Image and Command. Image with Language picks the
	// image whose driver of that language runs the code.
	Language string   `json:"language,omitempty"`
	Code     string   `json:"code,omitempty"`
	Image    string   `json:"image,omitempty"` // the name of an image, never a reference
	Command  []string `json:"command,omitempty"`

	// Input is the JSON value the program sees as INPUT_DATA; nil where none
	// was given.
	Input json.RawMessage `json:"input,omitempty"`
	Stdin string          `json:"stdin,omitempty"`
	Files []File          `json:"files,omitempty"`
	// Env are variables for the program. Policy grants them by name.
	Env map[string]string `json:"env,omitempty"`

	Limits  Limits        `json:"limits,omitzero"` // zero fields were not asked for
	Network []Destination `json:"network,omitempty"`
	Tools   []string      `json:"tools,omitempty"`
	Runtime string        `json:"runtime,omitempty"`
	Session string        `json:"session,omitempty"`

	// Metadata is claimed by the caller and proves nothing.
	Metadata map[string]string `json:"metadata,omitempty"`
}

// File is one file to be laid into the program's working directory before it
// starts.
type File struct {
	// Path is relative to /workspace, clean, and never climbs.
	Path string `json:"path"`
	// Content is decoded: the bytes of the file.
	Content []byte `json:"content"`
}

// Destination is a host and port a program wants to reach.
type Destination struct {
	Host string `json:"host"`
	Port int    `json:"port"`
}

// SHA256 identifies all of the request: code, stdin, input, values of
// variables and files. It is hex.
func (r Request) SHA256() (string, error) {
	canonical, err := json.Marshal(r) // struct order, sorted maps, compact
	if err != nil {
		return "", fmt.Errorf("encode request: %w", err)
	}
	return HexSHA256(canonical), nil
}

// HexSHA256 is the form in which contents stand in records and in policy.
func HexSHA256(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
