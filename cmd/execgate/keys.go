package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/execgate/execgate/execution"
	"github.com/spf13/cobra"
)

func newKeys() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Make, list and revoke API keys of a running gateway",
	}
	group(cmd, newKeysCreate(), newKeysList(), newKeysRevoke())
	return cmd
}

func newKeysCreate() *cobra.Command {
	var tenant, label string
	var output format
	var roles []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:     "create --tenant NAME --role ROLE",
		Short:   "Make a key and show it, once",
		Example: "  execgate keys create --tenant research --role caller --expires 720h",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			body := map[string]any{"tenant": tenant, "roles": roles}
			if label != "" {
				body["label"] = label
			}
			if cmd.Flags().Changed("expires") {
				if ttl <= 0 {
					return usage("--expires is %s: a key that never lived is of no use", ttl)
				}
				body["expires"] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
			}
			got, err := callGateway(cmd, http.MethodPost, "/v1/keys", body)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var made struct {
				Key string `json:"key"`
			}
			if err := json.Unmarshal(got.body, &made); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), made.Key)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&tenant, "tenant", "", "tenant that the key acts for")
	flags.StringSliceVar(&roles, "role", nil, "role of the key: caller, approver, auditor, policy_author, admin")
	flags.StringVar(&label, "label", "", "what the key is for")
	flags.DurationVar(&ttl, "expires", 0, "how long the key lives, such as 720h (default: until revoked)")
	output.register(cmd, "text for the key alone, or json")
	required(cmd, "tenant", "role")
	return cmd
}

func newKeysList() *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List keys, without their secrets",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, err := callGateway(cmd, http.MethodGet, "/v1/keys", nil)
			if err != nil {
				return err
			}
			if output == formatJSON {
				return got.print(cmd.OutOrStdout())
			}
			var list struct {
				Keys []execution.Key `json:"keys"`
			}
			if err := json.Unmarshal(got.body, &list); err != nil {
				return fmt.Errorf("read the gateway's answer: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tTENANT\tROLES\tLABEL\tSTATE")
			for _, key := range list.Keys {
				var roles []string
				for _, role := range key.Roles {
					roles = append(roles, string(role))
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", key.ID, key.Tenant, strings.Join(roles, ","), key.Label, keyState(key, time.Now()))
			}
			return table.Flush()
		},
	}
	output.register(cmd, "text, or json")
	return cmd
}

func keyState(key execution.Key, now time.Time) string {
	switch {
	case !key.Revoked.IsZero():
		return "revoked"
	case key.Expires.IsZero():
		return "in force"
	case now.After(key.Expires):
		return "expired"
	}
	return "until " + key.Expires.Format(time.RFC3339)
}

func newKeysRevoke() *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "Revoke a key, at once and for good",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, given []string) error {
			_, err := callGateway(cmd, http.MethodDelete, "/v1/keys/"+url.PathEscape(given[0]), nil)
			return err
		},
	}
}

// callGateway calls the gateway that the environment names; a refusal is an error.
func callGateway(cmd *cobra.Command, method, path string, body any) (answer, error) {
	c, err := newClient()
	if err != nil {
		return answer{}, err
	}
	got, err := c.call(cmd.Context(), method, path, body)
	if err != nil {
		return got, err
	}
	return got, got.err()
}
