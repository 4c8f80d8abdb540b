// Package ast has the shapes of an expression tree, enough for a tree that is
// one piece of plain text.
package ast

// Expr is a node of a tree.
type Expr interface {
	Walk(Visitor) (Expr, error)
}

// Visitor sees every node twice, on the way in and on the way out.
type Visitor interface {
	Enter(Expr) (Visitor, error)
	Exit(Expr) (Expr, error)
}

// Text is a node of plain text: the only kind that this stub makes.
type Text string

// Walk shows the node to v.
func (t Text) Walk(v Visitor) (Expr, error) { return visit(t, v) }

// Template is a node with placeholders; nothing here makes one.
type Template struct{}

// Walk shows the node to v.
func (t *Template) Walk(v Visitor) (Expr, error) { return visit(t, v) }

func visit(e Expr, v Visitor) (Expr, error) {
	inner, err := v.Enter(e)
	if err != nil || inner == nil {
		return e, err
	}
	return inner.Exit(e)
}
