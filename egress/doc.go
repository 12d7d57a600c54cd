// Package egress is the only way out of a sandbox.
//
// A sandbox has no network. What a program opens by name comes here as a stream
// of bytes with that name and a port (Broker.Carry), and its execution is known
// by where the stream came from. The broker holds the destination against the
// rules that were granted, looks the name up, checks every address, records the
// decision, and only then connects, to the very address that it checked.
//
// A rule says how it is carried: as bytes (forward), as TLS that is not read (tunnel),
// or request by request (intercept), where TLS ends here with an authority that only
// this sandbox trusts, credentials are set on what they are bound to, and answers are
// scrubbed of them.
//
// Everything that is not opened by a rule, or goes wrong before the record is
// durable, ends with nothing sent.
package egress
