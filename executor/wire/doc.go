// Package wire is what the gateway and the agent inside a sandbox say to each
// other, over the one stream that reaches the sandbox.
//
// The stream carries a yamux session. The gateway is its client and opens the
// streams; the first byte of each names its Kind. One control stream carries
// Frames; stdin, stdout and stderr are streams of raw bytes, so that a slow
// reader of one holds back only that one. The agent opens streams of one kind,
// and only while the gateway lets it: outbound connections, by name.
//
// On the control stream, in this order:
//
//	agent -> gateway   hello
//	gateway -> agent   authority?, park?
//	agent -> gateway   parked, where it was asked to
//	gateway -> agent   authority?, file*, start
//	agent -> gateway   started
//	gateway -> agent   signal*
//	agent -> gateway   result?, artifact*, exited
//
// A sandbox that is kept goes on. In a session, until the next start, each of
// these may come:
//
//	gateway -> agent   file*, sync         agent -> gateway   done
//	gateway -> agent   fetch               agent -> gateway   content or done
//
// One that is reused is cleaned first, and may then be parked again:
//
//	agent -> gateway   cleaned
//
// The gateway opens stdin, stdout and stderr anew for each program.
//
// The gateway trusts nothing that it reads here: Reader bounds every frame, and
// a frame out of order ends the sandbox.
package wire
