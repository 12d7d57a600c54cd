package replay_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/policy/replay"
)

// Every string of a report is written by others: none becomes markup.
func TestReportRunsNothing(t *testing.T) {
	const hostile = `"'><script>alert(1)</script><img src=x onerror=alert(1)>javascript:{{.}}` + "\u2028"
	by := map[string]map[replay.Class]uint64{hostile: {replay.DenyToAllow: 1}}
	reasons := []execution.Reason{{Code: hostile, Rule: hostile, Message: hostile, Remediation: hostile}}
	report := &replay.Report{
		From: time.Unix(0, 0).UTC(), Until: time.Unix(1, 0).UTC(), Was: hostile, Is: hostile, Replayed: 3,
		Classes: map[replay.Class]uint64{replay.DenyToAllow: 1}, ByTenant: by, ByAction: by, ByRule: by, Unreplayable: map[string]uint64{hostile: 1},
		Samples: []replay.Sample{{
			Execution: hostile, Tenant: hostile, Action: hostile, Was: execution.Effect(hostile), Is: execution.Effect(hostile),
			Classes: []replay.Class{hostile}, WasReasons: reasons, IsReasons: reasons, Limits: []replay.LimitChange{{Limit: hostile, Was: 1, Is: 2}},
		}},
	}
	var page strings.Builder
	if err := replay.WriteHTML(&page, report); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	if n := strings.Count(text, "&lt;script&gt;"); n < 18 {
		t.Errorf("the hostile string is there %d times", n)
	}
	if found := regexp.MustCompile(`(?i)<(script|img|a|iframe|link|object|svg)\b|\son\w+=`).FindAllString(strings.ReplaceAll(text, "x onerror=alert(1)&gt;", ""), -1); found != nil {
		t.Errorf("the page has %q", found)
	}
	if regexp.MustCompile(`(src|href|action)="|url\(|@import`).MatchString(text) {
		t.Error("the page loads something")
	}
	if !strings.Contains(text, "default-src 'none'") {
		t.Error("the page does not forbid scripts")
	}
}
