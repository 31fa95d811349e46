package main

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/entitlements-go/entitlements"
)

// A literal is pasted: it must say in Go what was measured, and only what is not
// the default.
func TestLiteralIsTheCandidate(t *testing.T) {
	r := Result{Best: Candidate{
		MaxCustomers: 5000, TTL: 90 * time.Second, DenyTTL: time.Minute, IdleAfter: 1500 * time.Millisecond,
		FetchConcurrency: 8, FetchRate: 72.5, FlushInterval: 250 * time.Millisecond, FlushSize: 500,
	}}
	for _, s := range settings() {
		r.Tables = append(r.Tables, Table{Setting: s})
	}
	require.Equal(t, r.Best.Config(), built(t, literal(known(), r)))
	r.Best = defaults()
	require.Equal(t, entitlements.Config{}, built(t, literal(known(), r)))
	r.Best.TTL = time.Minute
	require.Equal(t, "entitlements.Config{\n\tTTL: time.Minute,\n}", literal(known(), r))
}

func TestLiteralSaysWhatAFieldBuys(t *testing.T) {
	table := ttls(good, good, with(func(m *Measured) { m.Reads = 25 }))
	r := Result{Best: table.Rows[2].Candidate}
	table.Rows[2].Chosen = true
	r.Tables = []Table{table}
	require.Contains(t, literal(known(), r), "TTL: time.Minute, // 25.0 requests/s less than by default")
	table.Rows[1].Measured.Refused = 3
	require.Contains(t, literal(known(), r), "// by default 3.00 requests/s refused or held back: the limit is 100")
}

// built is the Config that a literal says.
func built(t *testing.T, text string) (cfg entitlements.Config) {
	t.Helper()
	expr, err := parser.ParseExpr(text)
	require.NoError(t, err, text)
	composite, ok := expr.(*ast.CompositeLit)
	require.True(t, ok)
	for _, element := range composite.Elts {
		pair, ok := element.(*ast.KeyValueExpr)
		require.True(t, ok)
		key, ok := pair.Key.(*ast.Ident)
		require.True(t, ok)
		field := reflect.ValueOf(&cfg).Elem().FieldByName(key.Name)
		require.True(t, field.IsValid(), "Config has no %s", key.Name)
		value := eval(t, pair.Value)
		if field.Kind() == reflect.Float64 {
			f, _ := constant.Float64Val(value)
			field.SetFloat(f)
			continue
		}
		n, exact := constant.Int64Val(constant.ToInt(value))
		require.True(t, exact, key.Name)
		field.SetInt(n)
	}
	return cfg
}

// eval is the value of what literals are made of.
func eval(t *testing.T, e ast.Expr) constant.Value {
	t.Helper()
	units := map[string]time.Duration{"Hour": time.Hour, "Minute": time.Minute, "Second": time.Second, "Millisecond": time.Millisecond, "Microsecond": time.Microsecond}
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.SelectorExpr:
		require.Contains(t, units, e.Sel.Name)
		return constant.MakeInt64(int64(units[e.Sel.Name]))
	case *ast.BinaryExpr:
		require.Equal(t, token.MUL, e.Op)
		return constant.BinaryOp(eval(t, e.X), e.Op, eval(t, e.Y))
	}
	require.Failf(t, "not a constant", "%T", e)
	return nil
}
