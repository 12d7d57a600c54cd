package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
)

// query is what every policy is asked.
const query = "data.execgate.decision"

// policy is a bundle that has been compiled: it is immutable and can be asked
// by any number of callers at once.
type policy struct {
	revision string
	query    rego.PreparedEvalQuery
	data     ast.Object // what the query's store holds
	modes    modes
}

// prepare compiles a bundle without its tests, which must not be able to
// define what is enforced.
func prepare(ctx context.Context, s *source) (*policy, error) {
	modules, err := s.parse(func(name string) bool { return !strings.HasSuffix(name, testSuffix) })
	if err != nil {
		return nil, err
	}
	data, err := s.dataValue()
	if err != nil {
		return nil, err
	}
	store := inmem.NewFromASTObject(data)
	compiler, err := compile(ctx, modules, store, capabilities())
	if err != nil {
		return nil, err
	}
	if len(compiler.GetRulesExact(ast.MustParseRef(query))) == 0 &&
		len(compiler.GetRulesWithPrefix(ast.MustParseRef(query))) == 0 {
		return nil, bundleErrorf("no rule defines %s", query)
	}
	modes, err := modesOf(compiler)
	if err != nil {
		return nil, err
	}
	prepared, err := rego.New(
		rego.Query(query),
		rego.Compiler(compiler),
		rego.Store(store),
		rego.Capabilities(capabilities()),
		rego.SetRegoVersion(ast.RegoV1),
		rego.Target("rego"),
		// A builtin that fails is an error and not merely undefined: undefined
		// inside a negation would turn a fault into an allow.
		rego.StrictBuiltinErrors(true),
		// The answer is decoded from the evaluator's own values: a decode by way
		// of interface{} costs more than the evaluation.
		rego.GenerateJSON(func(term *ast.Term, _ *rego.EvalContext) (any, error) { return term.Value, nil }),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, fmt.Errorf("prepare query: %w", err)
	}
	return &policy{revision: s.revision, query: prepared, data: data, modes: modes}, nil
}

// parse parses the modules that wanted selects.
func (s *source) parse(wanted func(name string) bool) (map[string]*ast.Module, error) {
	parsed := make(map[string]*ast.Module, len(s.modules))
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(s.modules)) {
		if !wanted(name) {
			continue
		}
		module, err := ast.ParseModuleWithOpts(name, s.modules[name], ast.ParserOptions{
			Capabilities: capabilities(), RegoVersion: ast.RegoV1, ProcessAnnotation: true,
		})
		switch {
		case err != nil:
			problems = append(problems, problemsOf(err)...)
		case module == nil: // nothing but white space
			problems = append(problems, name+": is empty")
		default:
			parsed[name] = module
		}
	}
	if len(problems) > 0 {
		return nil, &BundleError{Problems: problems}
	}
	if len(parsed) == 0 {
		return nil, bundleErrorf("there is no .rego file")
	}
	return parsed, nil
}

// store holds the data as the evaluator's own values, so that a look-up costs
// the same however much data there is.
func (s *source) store() (storage.Store, error) {
	data, err := s.dataValue()
	if err != nil {
		return nil, err
	}
	return inmem.NewFromASTObject(data), nil
}

func (s *source) dataValue() (ast.Object, error) {
	value, err := ast.InterfaceToValue(s.data)
	if err != nil {
		return nil, bundleErrorf("data: %v", err)
	}
	object, ok := value.(ast.Object)
	if !ok {
		return nil, errors.New("data is not an object")
	}
	return object, nil
}

// compile compiles modules strictly, against the schema of the input and with
// the given capabilities. A fault of the compiler is an error like any other.
func compile(
	ctx context.Context, modules map[string]*ast.Module, store storage.Store, caps *ast.Capabilities,
) (compiler *ast.Compiler, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = bundleErrorf("the compiler panicked: %v", r)
		}
	}()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer store.Abort(ctx, txn)

	compiler = newCompiler(caps).WithPathConflictsCheck(storage.NonEmpty(ctx, store, txn))
	if compiler.Compile(modules); compiler.Failed() {
		return nil, &BundleError{Problems: problemsOf(compiler.Errors)}
	}
	return compiler, nil
}

func newCompiler(caps *ast.Capabilities) *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(caps).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true).
		WithSchemas(inputSchema()).
		WithUseTypeCheckAnnotations(true).
		WithEnablePrintStatements(false) // print calls are dropped
}

// problemsOf takes OPA's lists of errors apart and says what to use instead of
// a builtin that is not allowed.
func problemsOf(err error) []string {
	list, ok := errors.AsType[ast.Errors](err)
	if !ok {
		return []string{err.Error()}
	}
	problems := make([]string, 0, len(list))
	for _, e := range list {
		text := e.Error()
		if name, ok := strings.CutPrefix(e.Message, "undefined function "); ok {
			text += hint(name)
		}
		problems = append(problems, text)
	}
	return problems
}
