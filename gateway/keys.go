package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/execgate/execgate/execution"
)

// operatorTenant is the tenant of those who run the gateway. Its admins make,
// see and revoke the keys of every tenant; admins of another tenant only those
// of their own.
const operatorTenant = "default"

// maxKeyBody bounds the body of POST /v1/keys.
const maxKeyBody = 16 << 10

// keyTimeout bounds a change to a key, with its record.
const keyTimeout = 10 * time.Second

func mayManage(p execution.Principal, tenant string) bool {
	return p.Has(execution.RoleAdmin) && (p.Tenant == operatorTenant || p.Tenant == tenant)
}

// createKey is POST /v1/keys. The answer is the only place where the key's text
// ever stands.
func (g *Gateway) createKey(x *exchange) error {
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(maxKeyBody)
	if err != nil {
		return err
	}
	ask, err := decodeKey(body, x.principal.Tenant)
	if err != nil {
		return err
	}
	if !mayManage(x.principal, ask.Tenant) {
		return &execution.Error{
			Kind: execution.KindDenied, Code: "other_tenant", Detail: "keys of another tenant are for its own admins",
		}
	}
	ctx, cancel := x.settled()
	defer cancel()
	key, secret, err := g.config.Keys.CreateKey(ctx, ask, func(key execution.Key) error {
		return g.recordKey(x, execution.RecordKeyCreated, key)
	})
	if err != nil {
		return err
	}
	answer, err := json.Marshal(struct {
		execution.Key
		Text string `json:"key"`
	}{key, secret.Reveal()})
	if err != nil {
		return internal("encode key", err)
	}
	x.gin.Writer.Header().Set("Location", "/v1/keys/"+key.ID)
	x.write(http.StatusCreated, "application/json", answer)
	return nil
}

func decodeKey(body []byte, byDefault string) (execution.Key, error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return execution.Key{}, f.err()
	}
	ask := execution.Key{Tenant: byDefault}
	if tenant, ok := take[string](m, "", "tenant", f); ok {
		ask.Tenant = tenant
	}
	ask.Roles, _ = take[[]execution.Role](m, "", "roles", f)
	ask.Label, _ = take[string](m, "", "label", f)
	if text, ok := take[string](m, "", "expires", f); ok {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil || expires.IsZero() {
			f.add("/expires", "must be a time such as 2030-01-31T12:00:00Z")
		}
		ask.Expires = expires
	}
	m.rest("", f)
	return ask, f.err()
}

// listKeys is GET /v1/keys: those the caller may manage, also expired and
// revoked ones.
func (g *Gateway) listKeys(x *exchange) error {
	all, err := g.config.Keys.Keys(x.ctx())
	if err != nil {
		return err
	}
	keys := []execution.Key{}
	for _, key := range all {
		if mayManage(x.principal, key.Tenant) {
			keys = append(keys, key)
		}
	}
	body, err := json.Marshal(struct {
		Keys []execution.Key `json:"keys"`
	}{keys})
	if err != nil {
		return internal("encode keys", err)
	}
	x.write(http.StatusOK, "application/json", body)
	return nil
}

// revokeKey is DELETE /v1/keys/{id}. It may be repeated. Another tenant's key is
// not there for those who may not manage it.
func (g *Gateway) revokeKey(x *exchange) error {
	id := x.gin.Param("id")
	notFound := &execution.Error{Kind: execution.KindNotFound, Code: "key_not_found", Detail: "there is no such key"}
	if !execution.ValidID(execution.PrefixKey, id) {
		return notFound
	}
	key, err := g.config.Keys.Key(x.ctx(), id)
	if err != nil {
		return err
	}
	if !mayManage(x.principal, key.Tenant) {
		return notFound
	}
	ctx, cancel := x.settled()
	defer cancel()
	if _, err := g.config.Keys.RevokeKey(ctx, id, func(key execution.Key) error {
		return g.recordKey(x, execution.RecordKeyRevoked, key)
	}); err != nil {
		return err
	}
	x.write(http.StatusNoContent, "", nil)
	return nil
}

// settled returns a context for a change that has its record: a caller that
// hangs up must not leave the record without the change.
func (x *exchange) settled() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(x.ctx()), keyTimeout)
}

// recordKey makes the record of a change to a key durable, which happens before
// the change.
func (g *Gateway) recordKey(x *exchange, kind execution.RecordType, key execution.Key) error {
	principal := x.principal
	_, err := g.records.append(x.ctx(), execution.Record{
		Type: kind, Principal: &principal, RequestID: x.requestID, TraceID: x.traceID,
		Key: &execution.KeyChange{ID: key.ID, Tenant: key.Tenant, Roles: key.Roles},
	})
	return err
}
