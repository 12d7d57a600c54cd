package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// keyRotationPrefix begins the line of a checkpoint that rotates the log's key. The
// old and the new verifier key follow, each after a space.
const keyRotationPrefix = "key-rotated "

// keyring is the keys that may sign for a log: one that is trusted, and those
// that rotations of the key connect it with. A rotation is a checkpoint that names
// the old and the new key and is signed by both: who trusts the old key has its
// word for the new one, and who trusts the new key has its word for what was
// signed before.
type keyring struct {
	logID [logIDBytes]byte
	keys  []ringKey
}

// ringKey is one key of a keyring.
type ringKey struct {
	note.Verifier
	text string
	// until is the size of the tree at which the next key took over. What the key
	// signs of a larger one does not count: whoever has an old key is not the log.
	until uint64
	// from is the size at which the key took over; 0 of the first.
	from uint64
	// before and next are the keys around it, as text; empty where there is none.
	before, next string
}

// newKeyring returns the keyring of the one key that is trusted.
func newKeyring(verifier string) (*keyring, error) {
	verifier = strings.TrimSpace(verifier)
	key, err := note.NewVerifier(verifier)
	if err != nil {
		return nil, fmt.Errorf("parse the verifier key: %w", err)
	}
	logID, err := parseOrigin(key.Name())
	if err != nil {
		return nil, fmt.Errorf("parse the verifier key: %w", err)
	}
	return &keyring{logID: logID, keys: []ringKey{{Verifier: key, text: verifier, until: maxSeq}}}, nil
}

// origin returns the first line of the log's checkpoints.
func (k *keyring) origin() string { return k.keys[0].Name() }

// find returns the key with this text, or nil.
func (k *keyring) find(text string) *ringKey {
	for i := range k.keys {
		if k.keys[i].text == text {
			return &k.keys[i]
		}
	}
	return nil
}

// verifiers returns the keys as note.Open takes them.
func (k *keyring) verifiers() note.Verifiers {
	var list []note.Verifier
	for _, key := range k.keys {
		list = append(list, key.Verifier)
	}
	return note.VerifierList(list...)
}

// open returns what a signed checkpoint states, if a key of the ring signed it
// while it was the log's. Lines after the third and other signatures are allowed
// and ignored, so that witnesses can add theirs.
func (k *keyring) open(signed []byte) (signedTree, error) {
	n, err := note.Open(signed, k.verifiers())
	if err != nil {
		if unverified := (*note.UnverifiedNoteError)(nil); errors.As(err, &unverified) {
			return signedTree{}, errors.New("the checkpoint is not signed by the log's key")
		}
		return signedTree{}, fmt.Errorf("the checkpoint's signature does not hold: %w", err)
	}
	stated, err := parseCheckpoint(n.Text, k.origin())
	if err != nil {
		return signedTree{}, err
	}
	for _, key := range k.keys {
		if stated.size <= key.until && signedBy(n, key.Verifier) {
			return stated, nil
		}
	}
	return signedTree{}, fmt.Errorf("the checkpoint of %d records is signed by a key that the log had replaced before", stated.size)
}

func signedBy(n *note.Note, key note.Verifier) bool {
	return slices.ContainsFunc(n.Sigs, func(s note.Signature) bool { return s.Hash == key.KeyHash() && s.Name == key.Name() })
}

// keyRotation is what a checkpoint that rotates the key states.
type keyRotation struct {
	signedTree
	signed   []byte
	old, new string
}

// rotationOf returns the rotation of the key that a checkpoint states, signed or not;
// false where it states none.
func rotationOf(signed []byte) (rotation keyRotation, ok bool) {
	text, _, _ := strings.Cut(string(signed), "\n\n")
	for line := range strings.SplitSeq(text, "\n") {
		if rest, found := strings.CutPrefix(line, keyRotationPrefix); found {
			rotation.old, rotation.new, ok = strings.Cut(rest, " ")
			rotation.signed = signed
			return rotation, ok
		}
	}
	return keyRotation{}, false
}

// follow adds the keys that signed rotations connect with those of the ring, and
// returns the rotations that did not count, each with the reason. Rotations of keys
// that nothing connects do not count and are no fault: nothing trusts them.
func (k *keyring) follow(rotations []keyRotation) (refused []error) {
	for progress := true; progress; {
		progress = false
		rest := rotations
		rotations = nil
		for _, c := range rest {
			old, next := k.find(c.old), k.find(c.new)
			if old == nil && next == nil {
				rotations = append(rotations, c)
				continue
			}
			progress = true
			if err := k.add(c); err != nil {
				refused = append(refused, fmt.Errorf("%s: %w", c.file, err))
			}
		}
	}
	return refused
}

// add takes one rotation of which one key is in the ring.
func (k *keyring) add(c keyRotation) error {
	if old := k.find(c.old); old != nil && old.next == c.new {
		return nil // a copy of one that is known
	}
	older, err := note.NewVerifier(c.old)
	if err != nil {
		return fmt.Errorf("the rotation of the key: its old key: %w", err)
	}
	newer, err := note.NewVerifier(c.new)
	if err != nil {
		return fmt.Errorf("the rotation of the key: its new key: %w", err)
	}
	n, err := note.Open(c.signed, note.VerifierList(older, newer))
	if err != nil || !signedBy(n, older) || !signedBy(n, newer) {
		return errors.New("the rotation of the key is not signed by both keys")
	}
	stated, err := parseCheckpoint(n.Text, k.origin())
	if err != nil {
		return err
	}
	if older.Name() != k.origin() || newer.Name() != k.origin() {
		return errors.New("the rotation of the key names a key of another log")
	}
	for _, key := range []*ringKey{k.find(c.old), k.find(c.new)} {
		switch {
		case key == nil:
		case c.old == c.new || key.text == c.old && stated.size <= key.from || key.text == c.new && stated.size >= key.until:
			return errors.New("the rotation of the key is out of order")
		case key.text == c.old && key.next != "":
			return fmt.Errorf("the key was rotated twice, at %d records and at %d: somebody else holds the old key", key.until, stated.size)
		case key.text == c.new && key.before != "":
			return errors.New("the key followed on two keys: somebody else holds one of them")
		}
	}
	if k.find(c.old) == nil {
		k.keys = append(k.keys, ringKey{Verifier: older, text: c.old})
	}
	if k.find(c.new) == nil {
		k.keys = append(k.keys, ringKey{Verifier: newer, text: c.new, until: maxSeq})
	}
	old, next := k.find(c.old), k.find(c.new)
	old.next, old.until = c.new, stated.size
	next.before, next.from = c.old, stated.size
	return nil
}

// list returns the keys in the order of the log.
func (k *keyring) list() (keys []Key) {
	next := k.keys[0].text
	for k.find(next).before != "" {
		next = k.find(next).before
	}
	for next != "" {
		key := k.find(next)
		one := Key{Key: key.text, Until: key.until}
		if key.next == "" {
			one.Until = 0
		}
		keys, next = append(keys, one), key.next
	}
	return keys
}
