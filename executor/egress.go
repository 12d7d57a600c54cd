package executor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/execgate/execgate/executor/wire"
)

// Egress carries what programs send out.
type Egress interface {
	// Authority makes the certificate authority of one sandbox. Its first certificate
	// is signed by itself and is what programs of the sandbox will trust; the key
	// never leaves the gateway.
	Authority() (*tls.Certificate, error)
	// Carry serves one connection that a program of job, which nobody changes, has made, and
	// returns when it is over; the executor then closes conn. authority is that of its sandbox. to has the form of a name and a
	// port, came from inside the sandbox, and was compared with nothing: whether
	// the program may reach it is decided here. ctx ends when the program has
	// ended; conn is reset then, and Carry must return soon. It is called by many
	// at once, and no more often at once than the grant's connections.
	//
	// conn has CloseWrite() error, which ends one way, and Abort() error, which
	// resets both, beside the methods of net.Conn.
	Carry(ctx context.Context, job *execution.Job, authority *tls.Certificate, to execution.Destination, conn net.Conn)
	// Find reports whether a name that a program of job looks up is to be found, where
	// Config.HideNames is set. It has the form of a name, and is asked for once by each
	// program, one after another.
	Find(ctx context.Context, job *execution.Job, name string) bool
}

const (
	// maxPorts bounds the ports of a grant: each is a listener in the sandbox.
	maxPorts = 64
	// headerTimeout bounds the wait for where a connection is to go.
	headerTimeout = 10 * time.Second
	// carryTimeout bounds the wait for connections to end with their program.
	carryTimeout = 2 * time.Second
	// lateBytes is what is thrown away of a connection that this side has closed,
	// before its sender is held back.
	lateBytes = 1 << 20
	// acceptBurst is how many connections are taken from one sandbox as fast as
	// they come, and acceptEvery how far apart after that.
	acceptBurst = 64
	acceptEvery = 5 * time.Millisecond
)

// checkNetwork refuses what cannot be carried out literally.
func (e *Executor) checkNetwork(g execution.Grant) error {
	if len(g.Network.Rules) == 0 {
		return nil
	}
	if e.cfg.Egress == nil {
		return errors.New("a network is granted, and this gateway carries no connections")
	}
	_, err := networkOf(g.Network)
	return err
}

// networkOf is what the agent is told of a network; nil where nothing is granted.
func networkOf(n execution.Network) (*wire.Network, error) {
	if len(n.Rules) == 0 {
		return nil, nil
	}
	if err := n.Validate(); err != nil {
		return nil, err
	}
	told := wire.Network{Connections: int(min(n.Budget.Connections, wire.MaxConnections))}
	for _, rule := range n.Rules {
		for _, port := range rule.Ports {
			told.Ports = append(told.Ports, uint16(port))
		}
	}
	slices.Sort(told.Ports)
	told.Ports = slices.Compact(told.Ports)
	if len(told.Ports) > maxPorts {
		return nil, fmt.Errorf("%d different ports are granted, at most %d", len(told.Ports), maxPorts)
	}
	return &told, nil
}

// outbound takes the connections that the programs of one sandbox make. What a
// sandbox does that its agent would not, it is ended for.
type outbound struct {
	egress    Egress
	authority *tls.Certificate
	session   *wire.Session

	mu  sync.Mutex
	now *carrying // nil while no program runs that has a network
	all int       // connections of which either side has not ended
}

// carrying is one program's connections.
type carrying struct {
	ctx    context.Context // done when the program has ended
	cancel context.CancelFunc
	job    execution.Job
	round  uint32
	slots  chan struct{}
	finds  chan struct{} // holds a token while a name is looked up; nil: none is
	tasks  sync.WaitGroup
}

// beginCarrying lets a program make connections.
func (e *Executor) beginCarrying(sb *sandbox, job execution.Job, told wire.Network) *carrying {
	if sb.outbound == nil {
		sb.outbound = &outbound{egress: e.cfg.Egress, authority: sb.authority, session: sb.session}
		e.underWay.Go(sb.outbound.accept)
	}
	c := &carrying{job: job, round: sb.round, slots: make(chan struct{}, told.Connections)}
	if told.Hidden {
		c.finds = make(chan struct{}, 1)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	sb.outbound.mu.Lock()
	sb.outbound.now = c
	sb.outbound.mu.Unlock()
	sb.session.LetOutbound(true)
	return c
}

// endCarrying ends the connections of a program that has ended or is lost, and
// reports whether nobody carries any of them any more. Where somebody does, the
// session is closed.
func (e *Executor) endCarrying(sb *sandbox, c *carrying) bool {
	sb.session.LetOutbound(false)
	sb.outbound.mu.Lock()
	sb.outbound.now = nil
	sb.outbound.mu.Unlock()
	c.cancel()
	over := make(chan struct{})
	go func() {
		defer close(over)
		c.tasks.Wait()
	}()
	if within(carryTimeout, over) {
		return true
	}
	sb.session.Close()
	if !within(carryTimeout, over) {
		e.cfg.Logger.Error("connections of a program that has ended are still carried", "execution_id", c.job.ID)
	}
	return false
}

// accept takes what the sandbox opens until its session ends.
func (o *outbound) accept() {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	var due time.Time
	for {
		conn, err := o.session.AcceptOutbound()
		if err != nil {
			return
		}
		if !o.count(1) {
			o.session.Close()
			return
		}
		tasks.Go(func() {
			defer o.count(-1)
			o.take(conn)
		})
		// A sandbox that is too fast is held back: it opens no more than a few that
		// were not accepted.
		if now := time.Now(); due.Before(now.Add(-acceptBurst * acceptEvery)) {
			due = now.Add(-acceptBurst * acceptEvery)
		}
		due = due.Add(acceptEvery)
		pause := time.NewTimer(time.Until(due))
		select {
		case <-pause.C:
		case <-o.session.Done():
		}
		pause.Stop()
	}
}

// mostOpen is how many connections a sandbox may have open: those of its program, and
// one by which a name is looked up.
const mostOpen = wire.MaxConnections + 1

// count counts a connection, and reports whether there may be as many: those that
// the agent still has open, and as many that it has ended and Carry has not.
func (o *outbound) count(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all += n
	return o.all <= 2*mostOpen
}

// take finds out whose a connection is and has it carried, and returns when the
// sandbox has ended it too.
func (o *outbound) take(conn *wire.Conn) {
	over := o.session.Done()
	to, err := conn.Header(headerTimeout)
	if err != nil && !wire.Late(err) {
		o.session.Close()
	}
	if c := o.joined(to.Round); c != nil {
		over = c.ctx.Done()
		c.carry(o, conn, execution.Destination{Host: to.Name, Port: int(to.Port)})
	}
	conn.Abort()
	if conn.Drain(lateBytes) {
		return
	}
	<-over
	if !conn.Drain(lateBytes) { // an agent would have ended it with its program
		<-o.session.Done()
	}
}

// joined is the program of that round, whose end then waits for the connection, or
// nil where it does not run any more.
func (o *outbound) joined(round uint32) *carrying {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.now == nil || o.now.round != round {
		return nil
	}
	o.now.tasks.Add(1)
	return o.now
}

// carry has a connection carried. Where the program ends meanwhile it is reset.
func (c *carrying) carry(o *outbound, conn *wire.Conn, to execution.Destination) {
	defer c.tasks.Done()
	defer context.AfterFunc(c.ctx, func() { conn.Abort() })()
	slots := c.slots
	if to.Port == 0 {
		slots = c.finds
	}
	if slots == nil { // its agent was not told to ask
		o.session.Close()
		return
	}
	select {
	case slots <- struct{}{}: // those before it may be about to end
	case <-c.ctx.Done():
		return
	}
	defer func() { <-slots }()
	if to.Port == 0 {
		conn.Found(o.egress.Find(c.ctx, &c.job, to.Host))
	} else {
		o.egress.Carry(c.ctx, &c.job, o.authority, to, conn)
	}
	conn.Close()
}
