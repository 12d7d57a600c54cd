package gateway

import (
	"encoding/json"
	"net/http"

	"github.com/execgate/execgate/execution"
)

// maxReadBody bounds the body of POST /v1/records/reads.
const maxReadBody = 4 << 10

// noteRead is POST /v1/records/reads: it records that what is kept encrypted of an
// execution is about to be read in the gateway's folder, past the gateway. Whoever reads
// shows nothing unless it answers 201.
func (g *Gateway) noteRead(x *exchange) error {
	if err := checkContentType(x.gin.Request.Header); err != nil {
		return err
	}
	body, err := x.body(maxReadBody)
	if err != nil {
		return err
	}
	id, count, err := decodeNote(body)
	if err != nil {
		return err
	}
	if x.principal.Tenant != operatorTenant {
		return &execution.Error{Kind: execution.KindDenied, Code: "other_tenant", Detail: "the gateway's folder is for those who run it to read"}
	}
	read, err := g.mayRead(x, execution.ReadFull, map[string]string{"execution": id})
	if err != nil {
		return err
	}
	read.Count = count
	seq, err := g.appendRead(x, read)
	if err != nil {
		return err
	}
	x.execution = executionID(id)
	answer, err := json.Marshal(struct {
		Record    uint64 `json:"record"` // its sequence number
		RequestID string `json:"request_id"`
	}{seq, x.requestID})
	if err != nil {
		return internal("encode answer", err)
	}
	x.write(http.StatusCreated, mediaJSON, answer)
	return nil
}

// maxNoted bounds what a note says was found.
const maxNoted = 1 << 20

func decodeNote(body []byte) (id string, count int, err error) {
	f := &faults{}
	m := splitObject(body, "", f)
	if m == nil {
		return "", 0, f.err()
	}
	id, _ = take[string](m, "", "execution", f)
	count, _ = take[int](m, "", "count", f)
	m.rest("", f)
	if len(f.fields) == 0 && executionID(id) == "" && !execution.ValidID(execution.PrefixSession, id) {
		f.add("/execution", "must be the id of an execution or of a session")
	}
	if count < 0 || count > maxNoted {
		f.addf("/count", "must be from 0 to %d", maxNoted)
	}
	return id, count, f.err()
}
