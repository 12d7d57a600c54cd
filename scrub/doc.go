// Package scrub removes known secrets from streams and from whole values.
//
// A Set knows the secrets, a Writer replaces what it knows in a stream, across
// any border between two writes, and Bytes and Text do so for a whole value. What
// is found is replaced by Marker.
//
// A secret is found as itself and in the forms that common encoders give it:
//
//   - base64, standard and URL-safe, at each of its three alignments within longer
//     text, with the marks "+" and "/" possibly escaped in turn, and with a line
//     break (also an escaped one) between any two of its characters;
//   - hex, in any mix of upper and lower case;
//   - percent-encoding and JSON's escapes, in any mix: which characters an encoder
//     escapes is its own affair (Go, Python, JavaScript, PHP and browsers all
//     differ), and so each may be escaped or not, with hex digits of any case;
//   - with the line ends of the other system, and without the white space around it.
//
// This is best effort, and the binding of a credential to its destination is the
// control: a program that holds a secret can write it in a form that nobody
// foresaw. Not found are: two encodings on top of each other, but for the marks of
// base64; a secret that something was put into, such as a prefix on each of its lines
// or two line breaks in a row; one of its lines alone; hex with separators; the
// entities of HTML; what is compressed. The characters at both ends of a secret within
// longer base64 depend on its neighbours, too, and stay: they tell 4 bits of its
// first and last byte at most.
package scrub
