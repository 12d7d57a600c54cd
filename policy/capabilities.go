package policy

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// allowedBuiltins are the builtins that a policy may call. It is a list of what
// is allowed, so that a new version of OPA adds none by itself.
//
// One call of a builtin cannot be interrupted. What is here therefore costs no
// more time and memory than the sizes of its arguments account for, reads
// nothing but its arguments, and always gives the same answer.
//
// What is not here, and why:
//
//   - http.send, net.lookup_ip_addr, json.match_schema and json.verify_schema
//     (remote $ref), providers.aws.sign_req: reach the network, or exist to.
//   - opa.runtime: shows the process's environment, and with it its secrets.
//   - time.now_ns, rand.intn, uuid.*: another answer each time, so that no
//     decision could be replayed. The time is input.request.time_ns.
//   - bits.lsh, numbers.range, numbers.range_step, net.cidr_expand, product,
//     sprintf: the cost follows a number, not a size: a shift by 1e10, a /8 to
//     list, a field a million wide (nine characters of format make 1 MB).
//   - json.marshal, json.marshal_with_options, json.patch, yaml.*,
//     strings.render_template: write out values that share their parts, so that
//     n nested doublings cost 2^n in one call (46 s and 13 GiB seen).
//   - graph.*, walks of all paths: exponential, or of no use without those.
//   - glob.match, regex.globs_match, regex.template_match: backtracking; ten
//     times "*{a,b}" against 40 letters did not return in a minute. regex.match
//     takes time linear in its text (RE2).
//   - net.cidr_merge, net.cidr_contains_matches: quadratic and cross products.
//   - regex.find_all_string_submatch_n, graphql.*, rego.parse_module: large
//     parsers or large answers for what callers send.
//   - io.jwt.*, crypto.x509.*, crypto.parse_private_keys, crypto.hmac.*:
//     asymmetric cryptography of any size, and keys that do not belong in a
//     policy. Identities are proven before policy is asked.
//   - crypto.md5, crypto.sha1: broken; crypto.sha256 is there.
//   - trace, internal.test_case: for tests and debugging.
//   - all, any, cast_*, re_match, set_diff, net.cidr_overlap: deprecated.
var allowedBuiltins = []string{
	// Comparison, assignment, membership.
	"assign", "eq", "equal", "neq", "gt", "gte", "lt", "lte",
	"internal.member_2", "internal.member_3",
	// Arithmetic and bits.
	"abs", "ceil", "div", "floor", "minus", "mul", "plus", "rem", "round",
	"bits.and", "bits.negate", "bits.or", "bits.rsh", "bits.xor",
	// Aggregates.
	"count", "max", "min", "sort", "sum",
	// Collections. walk gives its answers one by one, between which it stops.
	"and", "or", "intersection", "union",
	"array.concat", "array.flatten", "array.reverse", "array.slice",
	"object.filter", "object.get", "object.keys", "object.remove", "object.subset",
	"object.union", "object.union_n",
	"json.filter", "json.remove", "walk",
	// Strings.
	"concat", "contains", "endswith", "format_int", "indexof", "indexof_n", "lower", "replace",
	"split", "startswith", "strings.any_prefix_match", "strings.any_suffix_match", "strings.count",
	"strings.replace_n", "strings.reverse", "strings.split_n", "substring", "trim", "trim_left",
	"trim_prefix", "trim_right", "trim_space", "trim_suffix", "upper", "internal.template_string",
	// Patterns: RE2, linear in the text.
	"glob.quote_meta", "regex.find_n", "regex.is_valid", "regex.match", "regex.replace", "regex.split",
	// Encodings, all linear.
	"base64.decode", "base64.encode", "base64.is_valid",
	"base64url.decode", "base64url.encode", "base64url.encode_no_pad",
	"hex.decode", "hex.encode", "json.is_valid", "json.unmarshal",
	"urlquery.decode", "urlquery.decode_object", "urlquery.encode", "urlquery.encode_object",
	"uri.is_valid", "uri.parse", "crypto.sha256",
	// Types.
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string",
	"to_number", "type_name",
	// Addresses.
	"net.cidr_contains", "net.cidr_intersects", "net.cidr_is_valid",
	// Versions and units.
	"semver.compare", "semver.is_valid", "units.parse", "units.parse_bytes",
	// Time, of a time that is given.
	"time.add_date", "time.clock", "time.date", "time.diff", "time.format",
	"time.parse_duration_ns", "time.parse_ns", "time.parse_rfc3339_ns", "time.weekday",
	// What the compiler resolves or drops.
	"print", "rego.metadata.chain", "rego.metadata.rule",
}

// insteadOf says what to write instead of a builtin that is often reached for.
var insteadOf = map[string]string{
	"sprintf":       `write a template string, $"{a} of {b}"`,
	"glob.match":    "use regex.match, startswith or endswith",
	"json.marshal":  "compare the values themselves",
	"time.now_ns":   "use input.request.time_ns",
	"http.send":     "put what is needed into data",
	"numbers.range": "use every and some over the collection itself",
	"opa.runtime":   "use input.context.environment",
}

// AllowedBuiltins lists the builtins of Rego that a policy may call, sorted.
func AllowedBuiltins() []string { return slices.Sorted(slices.Values(allowedBuiltins)) }

// capabilities is what the parser and the compiler may use.
func capabilities() *ast.Capabilities {
	return capabilitiesWith(allowedBuiltins)
}

// testCapabilities is capabilities and what the test runner itself puts into tests.
func testCapabilities() *ast.Capabilities {
	return capabilitiesWith(append(slices.Clone(allowedBuiltins), "internal.test_case"))
}

func capabilitiesWith(builtins []string) *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	return &ast.Capabilities{
		Builtins: slices.DeleteFunc(all.Builtins, func(b *ast.Builtin) bool {
			return !slices.Contains(builtins, b.Name)
		}),
		Features: []string{
			ast.FeatureRegoV1, ast.FeatureKeywordsInRefs, ast.FeatureTemplateStrings,
		},
		// Empty and not nil, which would mean every host: schemas in annotations
		// may refer to remote ones.
		AllowNet: []string{},
	}
}

// hint explains why OPA does not know a function that its manual describes.
func hint(name string) string {
	if _, known := ast.BuiltinMap[name]; !known {
		return ""
	}
	text := " (a builtin of OPA that policies of this gateway may not call"
	if instead, ok := insteadOf[name]; ok {
		text += ": " + instead
	}
	return text + ")"
}
