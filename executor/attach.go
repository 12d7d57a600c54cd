package executor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/client"
)

// attach connects to a container's standard streams. The engine's own client
// waits for its answer without heeding ctx (client/hijack.go of docker v28),
// so an engine that hangs would be waited for without end.
func attach(ctx context.Context, cli *client.Client, id string) (types.HijackedResponse, error) {
	conn, err := cli.Dialer()(ctx)
	if err != nil {
		return types.HijackedResponse{}, fmt.Errorf("reach the engine: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	attached := types.HijackedResponse{Conn: conn, Reader: bufio.NewReaderSize(conn, engineBuffer)}
	err = upgrade(attached, fmt.Sprintf("/v%s/containers/%s/attach?stream=1&stdin=1&stdout=1&stderr=1", cli.ClientVersion(), id))
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		conn.Close()
		return types.HijackedResponse{}, err
	}
	return attached, nil
}

// upgrade turns a connection with the engine into the stream at path.
func upgrade(attached types.HijackedResponse, path string) error {
	req, err := http.NewRequest(http.MethodPost, "http://engine"+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	if err := req.Write(attached.Conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(attached.Reader, req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body.Close()
		return fmt.Errorf("the engine answered %s", resp.Status)
	}
	return nil
}
