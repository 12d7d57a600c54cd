package egress

import (
	"strings"
	"testing"
)

// A record says whether it has the whole of what was asked for.
func TestRecordSaysWhatIsCut(t *testing.T) {
	whole, short := "/"+strings.Repeat("p", maxRecordPath-1), strings.Repeat("M", maxRecordMethod)
	s := newSandbox(t, Config{}, nil)
	client := s.client(false)
	for i, tt := range []struct {
		method, path string
		cut          bool
	}{
		{"GET", "/", false}, {"GET", whole, false}, {"GET", whole + "p", true}, {short, "/", false}, {short + "M", "/", true}, {"GET", "/…", false},
	} {
		if res, body := s.do(client, request(t, tt.method, s.url(tt.path), "")); res.StatusCode != 200 {
			t.Fatalf("%s: %.200s", res.Status, body)
		}
		d := s.log.all()[2*i].EgressDecided
		method, path := tt.method, strings.ReplaceAll(tt.path, "…", "%E2%80%A6")
		if d.Cut != tt.cut || !strings.HasPrefix(method, d.Method) || !strings.HasPrefix(path, d.Path) || tt.cut == (d.Method == method && d.Path == path) {
			t.Errorf("of %.40s %.40s are recorded %d and %d bytes, cut: %v", tt.method, tt.path, len(d.Method), len(d.Path), d.Cut)
		}
	}
}
