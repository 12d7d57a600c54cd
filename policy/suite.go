package policy

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/cover"
	"github.com/open-policy-agent/opa/v1/tester"
)

// testTimeout bounds one rule of a bundle's own tests.
const testTimeout = 5 * time.Second

// TestReport is what came of a bundle's own tests.
type TestReport struct {
	Results []TestResult `json:"results"` // by package and name
	// Coverage is the share of the lines of rules, in percent, that the tests
	// evaluated. Files of tests do not count.
	Coverage float64 `json:"coverage"`
	// NotCovered are the lines that no test evaluated, as "file:line".
	NotCovered []string `json:"not_covered"`
}

// TestResult is what came of one test.
type TestResult struct {
	Package  string        `json:"package"`
	Name     string        `json:"name"`
	Location string        `json:"location"` // "file:line"
	Outcome  TestOutcome   `json:"outcome"`
	Error    string        `json:"error,omitempty"` // where Outcome is error
	Duration time.Duration `json:"duration_ns"`
}

// TestOutcome is how a test ended.
type TestOutcome string

// The outcomes of a test. A test named todo_test_… is skipped.
const (
	TestPassed  TestOutcome = "pass"
	TestFailed  TestOutcome = "fail"
	TestErrored TestOutcome = "error"
	TestSkipped TestOutcome = "skip"
)

// Passed reports whether there are tests, and none failed.
func (r TestReport) Passed() bool {
	return len(r.Results) > 0 && !slices.ContainsFunc(r.Results, func(t TestResult) bool {
		return t.Outcome == TestFailed || t.Outcome == TestErrored
	})
}

// Test runs the *_test.rego of a folder under the same capabilities and the
// same schema as a policy in force. A test that fails is part of the report;
// an error (a *BundleError if the folder is at fault) means that the tests
// could not be run. The folder's data has no images, so that tests say
// themselves which there are: `with data.images as {…}`.
func Test(ctx context.Context, folder fs.FS) (TestReport, error) {
	loaded, err := load(Bundle{Files: folder})
	if err != nil {
		return TestReport{}, fmt.Errorf("load policy: %w", err)
	}
	modules, err := loaded.parse(func(string) bool { return true })
	if err != nil {
		return TestReport{}, fmt.Errorf("parse policy: %w", err)
	}
	store, err := loaded.store()
	if err != nil {
		return TestReport{}, err
	}
	// The runner's compiler does not see rules that collide with data.
	if _, err := compile(ctx, modules, store, testCapabilities()); err != nil {
		return TestReport{}, fmt.Errorf("compile policy: %w", err)
	}

	coverage := cover.New()
	results, err := tester.NewRunner().
		SetCompiler(newCompiler(testCapabilities())).
		SetModules(modules).
		SetStore(store).
		SetTimeout(testTimeout).
		RaiseBuiltinErrors(true).
		CapturePrintOutput(false).
		SetCoverageQueryTracer(coverage).
		SetCoverageRuns([]cover.Kind{}).
		RunTests(ctx, nil)
	if err != nil {
		return TestReport{}, fmt.Errorf("compile tests: %w", &BundleError{Problems: problemsOf(err)})
	}
	var report TestReport
	for result := range results {
		report.Results = append(report.Results, testResult(result))
	}
	if err := ctx.Err(); err != nil {
		return TestReport{}, fmt.Errorf("run tests: %w", err)
	}
	slices.SortFunc(report.Results, func(a, b TestResult) int {
		return strings.Compare(a.Package+"."+a.Name, b.Package+"."+b.Name)
	})
	report.addCoverage(coverage, modules)
	return report, nil
}

func testResult(r *tester.Result) TestResult {
	result := TestResult{
		Package: r.Package, Name: r.Name, Outcome: TestPassed, Duration: r.Duration,
	}
	if r.Location != nil {
		result.Location = fmt.Sprintf("%s:%d", r.Location.File, r.Location.Row)
	}
	switch {
	case r.Error != nil:
		result.Outcome, result.Error = TestErrored, r.Error.Error()
	case r.Skip:
		result.Outcome = TestSkipped
	case r.Fail:
		result.Outcome = TestFailed
	}
	return result
}

func (r *TestReport) addCoverage(coverage *cover.Cover, modules map[string]*ast.Module) {
	files := coverage.Report(modules).Files
	covered, missed := 0, 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, testSuffix) {
			continue
		}
		covered += files[name].CoveredLines
		missed += files[name].NotCoveredLines
		for _, lines := range files[name].NotCovered {
			r.NotCovered = append(r.NotCovered, fmt.Sprintf("%s:%d", name, lines.Start.Row))
		}
	}
	if covered+missed > 0 {
		r.Coverage = 100 * float64(covered) / float64(covered+missed)
	}
}
