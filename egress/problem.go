package egress

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Codes of requests, beside those of connections.
const (
	codeMethodRefused   = "method_refused"
	codeMethodOverride  = "method_override_refused"
	codeTargetOverride  = "target_override_refused"
	codeUpgradeRefused  = "upgrade_refused"
	codeMethodNotOpen   = "method_not_granted"
	codePathNotOpen     = "path_not_granted"
	codeSocketNotOpen   = "websocket_not_granted"
	codeTLSRequired     = "tls_required"
	codeDecisionDenied  = "egress_denied"
	codeBodyInvalid     = "body_invalid"
	codeAmbiguous       = "binding_ambiguous"
	codeBindingInvalid  = "binding_invalid"
	codeNeedsTLS        = "credential_needs_tls"
	codeUnsigned        = "body_not_signable"
	codeNoCredential    = "credential_unavailable"
	codeBadCredential   = "credential_unusable"
	codeCertificate     = "certificate_invalid"
	codeUpstream        = "upstream_failed"
	codeUnscrubbable    = "response_unscrubbable"
	codeSecretReflected = "secret_reflected" // an end, of a WebSocket
	codeDisconnected    = "program_gone"     // an end: the program did not wait for the answer
	codeOutputLimit     = "output_limit"     // an end, of a tool's request: no more of the answer is kept

	// Of requests for the gateway's own tools.
	codeToolRequest   = "tool_request_invalid"
	codeToolArguments = "tool_arguments_too_large"
	codeToolNested    = "tool_calls_tool"
)

// problem is a refusal as the program sees it (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Host   string `json:"host"`
	Port   int    `json:"port"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Rule   string `json:"rule,omitempty"`
}

const problemType = "https://execgate.dev/problems/egress-"

// answer is what a refusal says: its status, and what to do.
type answer struct {
	status int
	detail string
}

const askForRule = "Ask for a network rule that opens it, or use a destination that is granted."

var answers = map[string]answer{
	codeNotGranted:     {403, "No network rule of this execution opens this host and port. " + askForRule},
	codeUnsupported:    {403, "The mode of the rule for this destination is none that this gateway carries here."},
	codeMethodNotOpen:  {403, "The rules for this host open other methods only. " + askForRule},
	codePathNotOpen:    {403, "The rules for this host open other paths only. " + askForRule},
	codeSocketNotOpen:  {403, `The rule for this host does not open WebSockets. Ask for one with "websocket": true.`},
	codeDecisionDenied: {403, "Policy denies this request."},
	codeTLSRequired:    {403, "Plain HTTP is carried to port 80 only. Use https."},

	codeMethodRefused:  {403, "This method is never forwarded: CONNECT, TRACE, TRACK, and what is not upper-case letters."},
	codeMethodOverride: {403, "Headers that change the method are not forwarded. Send the method itself."},
	codeTargetOverride: {403, "Headers that change the host or the path are not forwarded. Send the request to where it is for."},
	codeUpgradeRefused: {403, "No upgrade but to a WebSocket over HTTP/1.1 is carried. Send the request without it."},
	codeHostMismatch:   {403, "The request is for another host than the one that the connection was opened to. Use one connection for each host."},
	codeSNIMissing:     {403, "The TLS handshake names no server. Send the server name (SNI)."},
	codeSNIMismatch:    {403, "The TLS handshake names another server than the one that the connection was opened to."},
	codeECH:            {403, "An encrypted client hello hides where the connection goes. Send the hello unencrypted."},
	codePathAmbiguous:  {403, `Servers read this path differently: it has an empty, "." or ".." segment, ";", "\", or one of them escaped. Send the plain path.`},
	codePathInvalid:    {400, "The target is no path, or has characters that must be escaped."},
	codeQueryInvalid:   {400, "The query has characters that must be escaped, or parameters that servers read differently."},

	codeLineEnd:        {400, "Lines of a request end in CRLF."},
	codeFolded:         {400, "A header line must not be folded."},
	codeHeaderInvalid:  {400, "A header line is malformed, or expects another thing than 100-continue."},
	codeHeadTooLarge:   {431, "The head of the request has more than 64 KiB or 200 fields."},
	codeProtocol:       {400, "HTTP/1.1, HTTP/1.0, or within TLS HTTP/2 is spoken here."},
	codeHostRepeated:   {400, "There is more than one Host."},
	codeHostMissing:    {400, "There is no Host."},
	codeFraming:        {400, "The length of the body is not told in exactly one way."},
	codeRequestInvalid: {400, "The request line is malformed."},
	codeBodyInvalid:    {400, "The body is malformed, or ended early."},

	codeBudgetInvalid:       {403, "This execution has no network budget."},
	codeRequestsSpent:       {429, "The requests of this execution's network budget are spent."},
	codeBytesSpent:          {429, "The bytes of this execution's network budget are spent."},
	codeRateExceeded:        {429, "The execution makes more requests a second than its network budget has. Try again more slowly."},
	codeConnectionsExceeded: {429, "The execution has more requests under way than its network budget has connections. Try again when one has ended."},

	codeNameUnresolved:   {502, "The name has no address."},
	codeResolveTimeout:   {504, "The name was not resolved in time."},
	codeTooManyAddresses: {502, "The name has too many addresses."},
	codeAddressRefused:   {403, "The name has an address that this gateway does not connect to: one that is not public, and not allowed."},
	codeDialFailed:       {502, "Nothing could be connected to."},
	codeDialTimeout:      {504, "Nothing could be connected to in time."},
	codeCertificate:      {502, "The destination's certificate is not valid for its name."},
	codeUpstream:         {502, "The destination failed before it answered."},
	codeBroken:           {502, "The connection to the destination broke."},
	codeDisconnected:     {502, "The program did not wait for the answer."},
	codeCancelled:        {503, "The execution has ended."},
	codeIdle:             {504, "Nothing was sent or received for too long."},
	codeUnscrubbable:     {502, "The answer is compressed, or a part, or a WebSocket, and must be searched for a credential: it is withheld."},
	codeUnrecorded:       {503, "The gateway cannot record this request now, so it was not sent. Try again later."},

	codeToolRequest:   {400, "Tools are called by POST /NAME, with their arguments as a JSON object, and listed by GET /."},
	codeToolArguments: {413, "The arguments of a tool have at most 256 KiB."},
	codeToolNested:    {403, "A tool cannot call tools."},

	codeAmbiguous:      {403, "More than one credential is bound to this request. Ask for bindings that do not overlap."},
	codeBindingInvalid: {502, "The credential's binding cannot be carried out."},
	codeNeedsTLS:       {403, "A credential is bound to this request, and is not sent without TLS. Use https."},
	codeUnsigned:       {413, "The body is too large to be signed, or comes in chunks that are signed already."},
	codeNoCredential:   {503, "The credential for this request is not to be had now: it is used up, has ended, or its store does not answer."},
	codeBadCredential:  {502, "The credential for this request has no value that could be sent."},
}

// answerTo is what a refusal with code says. Other codes are of policies.
func answerTo(code string) answer {
	if a, ok := answers[code]; ok {
		return a
	}
	return answer{http.StatusForbidden, "Policy denies this request."}
}

// counted is the code under which a refusal is counted: a policy's own codes are as
// many as it likes.
func counted(code string) string {
	if _, ok := answers[code]; ok || slices.Contains(plainCodes, code) {
		return code
	}
	return codeDecisionDenied
}

// plainCodes are those of refusals that are never told.
var plainCodes = []string{codeHostInvalid, codeHostIsAddress, codePortInvalid, codeNotTLS, codeTLSFailed}

// writeProblem answers with a refusal.
func writeProblem(w http.ResponseWriter, d destination, q question, code string) {
	a, rule := answerTo(code), d.rule.Host
	if q.reason.Code == code { // policy's own words say more
		rule = cmp.Or(q.reason.Rule, rule)
		a.detail = cmp.Or(strings.TrimSpace(q.reason.Message+" "+q.reason.Remediation), a.detail)
	}
	body, err := json.Marshal(problem{
		Type: problemType + strings.ReplaceAll(code, "_", "-"), Title: http.StatusText(a.status), Status: a.status, Code: code, Detail: fmt.Sprintf("execgate: %s", a.detail),
		Host: d.host, Port: d.port, Method: clip(q.method, maxRecordMethod), Path: clip(q.path, maxRecordPath), Rule: rule,
	})
	if err != nil { // nothing in it can fail to be encoded
		body = []byte(`{"type":"about:blank","status":403}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if a.status == http.StatusTooManyRequests || a.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if slices.Contains([]string{codeMethodRefused, codeUpgradeRefused, codeSocketNotOpen}, code) {
		h.Set("Connection", "close") // what follows may be of another protocol
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(body) // who is refused need not listen
}
