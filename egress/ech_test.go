package egress

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"testing"
)

// echConfig is an ECHConfigList (RFC 9849, 4) of a key that nobody has, by which a
// client encrypts its hello.
func echConfig(t testing.TB) []byte {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with16 := func(b, part []byte) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(part))), part...)
	}
	contents := []byte{1}                                    // config_id
	contents = binary.BigEndian.AppendUint16(contents, 0x20) // DHKEM(X25519, HKDF-SHA256)
	contents = with16(contents, key.PublicKey().Bytes())
	contents = with16(contents, []byte{0, 1, 0, 1}) // HKDF-SHA256, AES-128-GCM
	contents = append(contents, 32, byte(len("api.test")))
	contents = append(contents, "api.test"...)
	contents = with16(contents, nil)
	config := with16(binary.BigEndian.AppendUint16(nil, extensionECH), contents)
	return with16(nil, config)
}
