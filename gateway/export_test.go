package gateway

import (
	"github.com/gin-gonic/gin"

	"github.com/execgate/execgate/execution"
)

// Row is a row of the table of routes, for the tests.
type Row struct {
	Method, Path string
	Public       bool
	Role         execution.Role
}

// Table is the table of routes.
func (g *Gateway) Table() []Row {
	var rows []Row
	for _, r := range g.routes() {
		rows = append(rows, Row{r.method, r.path, r.public, r.role})
	}
	return rows
}

// GinRoutes is what gin answers to.
func (g *Gateway) GinRoutes() gin.RoutesInfo { return g.engine.Routes() }
