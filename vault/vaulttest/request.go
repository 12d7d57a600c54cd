package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Answer is what Vault says to a request.
type Answer struct {
	Status int
	Body   []byte
}

// Text is the value at the keys, one below the other: a string as it is,
// anything else as JSON, and nothing where there is none.
func (a Answer) Text(keys ...string) string {
	value := json.RawMessage(a.Body)
	for _, key := range keys {
		var object map[string]json.RawMessage
		if json.Unmarshal(value, &object) != nil {
			return ""
		}
		value = object[key]
	}
	var text string
	if json.Unmarshal(value, &text) == nil {
		return text
	}
	return string(value)
}

// Do asks with the root token; path is what follows /v1/, and body, if not nil,
// is sent as JSON. The test ends where Vault does not answer or refuses.
func (s *Server) Do(tb testing.TB, method, path string, body any) Answer {
	tb.Helper()
	answer, err := s.do(method, path, body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer
}

// DoAs asks with another token, or none if it is empty, and returns refusals
// too. The test ends where Vault does not answer.
func (s *Server) DoAs(tb testing.TB, token, method, path string, body any) Answer {
	tb.Helper()
	answer, err := s.call(context.Background(), token, method, path, body)
	if err != nil {
		tb.Fatal(err)
	}
	return answer
}

func (s *Server) do(method, path string, body any) (Answer, error) {
	answer, err := s.call(context.Background(), s.rootToken, method, path, body)
	if err == nil && answer.Status >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %d: %s", method, path, answer.Status, answer.Body)
	}
	return answer, err
}

func (s *Server) call(ctx context.Context, token, method, path string, body any) (Answer, error) {
	client, err := s.httpClient()
	if err != nil {
		return Answer{}, err
	}
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
		}
		sent = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, s.Addr()+"/v1/"+strings.TrimPrefix(path, "/"), sent)
	if err != nil {
		return Answer{}, err
	}
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return Answer{response.StatusCode, text}, nil
}
