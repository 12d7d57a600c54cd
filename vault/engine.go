package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/execgate/execgate/execution"
)

// reading is what an engine answered.
type reading struct {
	fields  map[string]execution.Secret
	leaseID string
	expires time.Time // zero: by itself it has no end
}

// read asks the engine for the credential with the execution's own token.
func (v *Vault) read(ctx context.Context, t *token, l *lease) (reading, error) {
	client := v.client.as(t.value).Logical()
	now := time.Now()
	var answer *api.Secret
	var err error
	if l.mount.Engine == execution.EnginePKI {
		answer, err = client.WriteWithContext(ctx, l.path, l.certificate(now, t.expires))
	} else {
		answer, err = client.ReadWithContext(ctx, l.path)
	}
	doing := fmt.Sprintf("read the credential of tool %.200q", l.credential.Tool)
	fix := "check that it exists at its mount, path and role, and that its vault_policies may read it"
	if err != nil {
		e := fault(doing, fix, err)
		e.Err = fmt.Errorf("at %s: %w", l.path, e.Err)
		return reading{}, e
	}
	got, err := readingOf(l.mount.Engine, answer, now)
	if err == nil && l.credential.Inject == execution.InjectEnv {
		for name, value := range got.fields {
			if strings.ContainsRune(value.Reveal(), 0) {
				err = fmt.Errorf("its field %.200q holds a NUL, which no variable can", name)
			}
		}
	}
	if err != nil {
		return reading{}, &execution.Error{
			Kind: execution.KindUnavailable, Code: CodeRefused, Err: fmt.Errorf("at %s: %w", l.path, err),
			Detail: fmt.Sprintf("the credential of tool %.200q cannot be lent as it is in Vault: the operator has to mend it: %v", l.credential.Tool, err),
		}
	}
	return got, nil
}

// certificate asks for one that ends with the token.
func (l *lease) certificate(now, expires time.Time) map[string]any {
	body := map[string]any{"ttl": strconv.FormatInt(max(1, int64(expires.Sub(now)/time.Second)), 10) + "s"}
	if l.mount.CommonName != "" {
		name := strings.NewReplacer("{execution}", l.loan.id, "{tenant}", l.loan.asked.Principal.Tenant).Replace(l.mount.CommonName)
		// A host's name has no underscores (RFC 1123, section 2.1); ids have.
		body["common_name"] = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	}
	return body
}

// readingOf takes the fields from where the engine puts them. Its errors hold none
// of their values.
func readingOf(engine string, answer *api.Secret, now time.Time) (reading, error) {
	if answer == nil || len(answer.Data) == 0 {
		return reading{}, errors.New("it is empty")
	}
	got := reading{leaseID: answer.LeaseID}
	if answer.LeaseID != "" && answer.LeaseDuration > 0 {
		got.expires = now.Add(time.Duration(answer.LeaseDuration) * time.Second)
	}
	data := answer.Data
	switch engine {
	case execution.EngineKV2:
		inner, ok := data["data"].(map[string]any)
		if !ok || len(inner) == 0 {
			return reading{}, errors.New("its newest version is deleted or empty")
		}
		data = inner
	case execution.EnginePKI:
		if number, ok := data["expiration"].(json.Number); ok {
			if seconds, err := number.Int64(); err == nil {
				got.expires = time.Unix(seconds, 0)
			}
		}
	case execution.EngineOther:
		if answer.LeaseID == "" {
			return reading{}, errors.New("it has no lease, which its engine is configured to give")
		}
	}
	got.fields = make(map[string]execution.Secret, len(data))
	for name, value := range data {
		text, err := textOf(value)
		if err != nil {
			return reading{}, fmt.Errorf("its field %.200q is no JSON", name)
		}
		got.fields[name] = execution.NewSecret(text)
	}
	return got, nil
}

// textOf is a string as it is, and anything else as JSON.
func textOf(value any) (string, error) {
	if text, ok := value.(string); ok {
		return text, nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return "", err
	}
	return strings.TrimSuffix(out.String(), "\n"), nil
}
