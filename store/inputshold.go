package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/execgate/execgate/execution"
)

// The parts of an execution's material.
const (
	PartRequest = "request"
	PartOutput  = "output"
)

// MaxMaterialBytes bounds the content of one Material.
const MaxMaterialBytes = 256 << 20

// Material is what a policy has kept in full of an execution: what was asked for, or
// what came of it. There is one of each part.
type Material struct {
	Execution string // id of the execution, or of the session
	Part      string
	Seq       uint64 // of the decision's record
	Tenant    string
	Subject   string // who asked
	Time      time.Time
	Content   []byte // callers' data
}

// Held is what must be kept until a time, and is not given up for room.
type Held struct {
	Input     *Input // nil: none
	Materials []Material
	// Until is when it may be forgotten; zero: when inputs of its time are.
	Until time.Time
}

// The codes of why something cannot be held.
const (
	CodeHeldTooLarge = "held_too_large"
	CodeHeldFull     = "held_full"
)

// Hold keeps what must be kept, all of it or nothing, and returns once it is durable.
// What is held takes the room of inputs that need not be kept; of one tenant it takes
// half of MaxBytes at most. Past that it is an error of KindUnavailable, held_full, and
// of a material that is too large held_too_large. The output of an execution whose
// request was erased meanwhile is not kept, and that is no error.
func (s *Inputs) Hold(ctx context.Context, held Held) error {
	for _, m := range held.Materials {
		if len(m.Content) > MaxMaterialBytes {
			return &execution.Error{Kind: execution.KindUnavailable, Code: CodeHeldTooLarge, Detail: fmt.Sprintf("it is larger than %d MiB", MaxMaterialBytes>>20)}
		}
	}
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	defer s.unlock()
	written := map[string]bool{}
	err := s.change(ctx, func(tx *sql.Tx) error {
		keys := map[string]tenantKey{}
		if held.Input != nil {
			if err := s.insert(ctx, tx, held.Input, s.end(held.Until, held.Input.Time), keys, written); err != nil {
				return err
			}
		}
		for i := range held.Materials {
			if err := s.insertMaterial(ctx, tx, &held.Materials[i], held.Until, keys); err != nil {
				return err
			}
		}
		return s.fits(ctx, tx, held)
	})
	if err != nil {
		return fmt.Errorf("hold: %w", err)
	}
	for document := range written {
		s.known[document] = true
	}
	if held.Input != nil {
		s.kept.Add(1)
	}
	if err := s.makeRoom(ctx); err != nil {
		s.log.WarnContext(ctx, "recorded inputs take more room than they may", "error", err) // it is held all the same
	}
	return nil
}

// end is until, or where that is zero when an input of the time at is forgotten.
func (s *Inputs) end(until, at time.Time) time.Time {
	if until.IsZero() {
		return at.Add(s.retain)
	}
	return until
}

func (s *Inputs) insertMaterial(ctx context.Context, tx *sql.Tx, m *Material, until time.Time, keys map[string]tenantKey) error {
	if m.Part == PartOutput {
		var erased bool
		err := tx.QueryRowContext(ctx, "SELECT wrapped IS NULL FROM materials WHERE execution = ? AND part = ?", m.Execution, PartRequest).Scan(&erased)
		if erased || err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	key, err := s.keyOf(ctx, tx, m.Tenant, keys)
	if err != nil {
		return err
	}
	wrapped, sealed := key.envelope(m.Content, m.about())
	if s.erasedBefore(m.Execution, m.Tenant, m.Subject, m.Time) {
		wrapped, sealed = nil, nil
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO materials (execution, part, seq, tenant, subject, at_ms, until_ms, tenant_key, wrapped, sealed) "+
		"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		m.Execution, m.Part, int64(m.Seq), m.Tenant, m.Subject, m.Time.UnixMilli(), s.end(until, m.Time).UnixMilli(), key.id, wrapped, sealed)
	return err
}

// fits is an error where more is held now than may be, of all or of a tenant of held.
func (s *Inputs) fits(ctx context.Context, tx *sql.Tx, held Held) error {
	tenants := map[string]bool{}
	for _, m := range held.Materials {
		tenants[m.Tenant] = true
	}
	if held.Input != nil {
		tenants[held.Input.Tenant] = true
	}
	for tenant := range tenants {
		var all, own int64
		if err := tx.QueryRowContext(ctx, "SELECT coalesce(sum(bytes), 0), coalesce(sum(bytes) FILTER (WHERE tenant = ?), 0) FROM held_bytes", tenant).Scan(&all, &own); err != nil {
			return err
		}
		if all > s.maxBytes || own > s.maxBytes/2 {
			return &execution.Error{
				Kind: execution.KindUnavailable, Code: CodeHeldFull,
				Detail: "there is no room for what must be kept: raise policy.inputs.max_mib, or retain for less long",
			}
		}
	}
	return nil
}

func (m *Material) about() []byte {
	return fmt.Appendf(nil, "execgate material 1\x00%s\x00%s\x00%d\x00%s\x00%s\x00%d",
		m.Execution, m.Part, m.Seq, m.Tenant, m.Subject, m.Time.UnixMilli())
}

// SealedMaterial is a Material that has not been decrypted.
type SealedMaterial struct {
	Material // without Content

	reader          *InputsReader
	key             int64
	wrapped, sealed []byte
}

// Open decrypts a material. Its errors are those of SealedInput.Open.
func (s *SealedMaterial) Open(ctx context.Context) (Material, error) {
	m := s.Material
	var err error
	m.Content, err = s.reader.keys.open(ctx, s.reader.store.read, s.key, s.wrapped, s.sealed, m.about())
	return m, err
}

// OfExecution returns all that is kept of an execution, or of the opening of a session:
// inputs in the order of their records, and the request before the output.
func (r *InputsReader) OfExecution(ctx context.Context, id string) (inputs []*SealedInput, materials []*SealedMaterial, err error) {
	rows, err := r.store.read.QueryContext(ctx, "SELECT "+inputColumns+" FROM inputs WHERE execution = ? ORDER BY seq", id)
	if err != nil {
		return nil, nil, fmt.Errorf("read inputs: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		in, err := r.scan(rows.Scan)
		if err != nil {
			return nil, nil, fmt.Errorf("read inputs: %w", err)
		}
		inputs = append(inputs, in)
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("read inputs: %w", err)
	}
	rows, err = r.store.read.QueryContext(ctx, "SELECT execution, part, seq, tenant, subject, at_ms, tenant_key, wrapped, sealed "+
		"FROM materials WHERE execution = ? ORDER BY part DESC", id)
	if err != nil {
		return nil, nil, fmt.Errorf("read materials: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		m := &SealedMaterial{reader: r}
		var seq, at int64
		if err := rows.Scan(&m.Execution, &m.Part, &seq, &m.Tenant, &m.Subject, &at, &m.key, &m.wrapped, &m.sealed); err != nil {
			return nil, nil, fmt.Errorf("read materials: %w", err)
		}
		m.Seq, m.Time = uint64(seq), time.UnixMilli(at).UTC()
		materials = append(materials, m)
	}
	if err := rows.Err(); err != nil {
		return nil, nil, fmt.Errorf("read materials: %w", err)
	}
	return inputs, materials, nil
}
