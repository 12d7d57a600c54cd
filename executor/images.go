package executor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"github.com/execgate/execgate/execution"
)

// imageState is an image that the engine has.
type imageState struct {
	Image
	digest string // what policy grants
	facts  imageFacts
}

// resolveImages asks the engine what the names of images stand for now. Images
// that it does not have are left out: they cannot be granted.
func resolveImages(ctx context.Context, cli *client.Client, list []Image) (map[string]imageState, error) {
	images := map[string]imageState{}
	for _, image := range list {
		found, err := cli.ImageInspect(ctx, image.Reference)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("inspect image %s: %w", image.Reference, err)
		}
		state := imageState{Image: image, digest: found.ID, facts: imageFacts{ID: found.ID}}
		if len(found.RepoDigests) > 0 {
			_, state.digest, _ = strings.Cut(found.RepoDigests[0], "@")
		}
		if c := found.Config; c != nil {
			for _, variable := range c.Env {
				name, _, _ := strings.Cut(variable, "=")
				state.facts.Env = append(state.facts.Env, name)
			}
			state.facts.Volumes = slices.Sorted(maps.Keys(c.Volumes))
			state.facts.Labels = slices.Sorted(maps.Keys(c.Labels))
		}
		images[image.Name] = state
	}
	return images, nil
}

// images are what the names of images stand for, and stood for.
type images struct {
	cli  *client.Client
	list []Image

	mu     sync.Mutex
	looked time.Time
	now    map[string]imageState // by name
	known  map[string]imageState // by digest: also what a name stood for before
}

func newImages(cli *client.Client, list []Image, found map[string]imageState) *images {
	s := &images{cli: cli, list: list, known: map[string]imageState{}}
	s.learn(found)
	return s
}

// maxKnown bounds what is remembered of images that were rebuilt.
const maxKnown = 256

func (s *images) learn(found map[string]imageState) {
	if len(s.known)+len(found) > maxKnown {
		clear(s.known)
	}
	s.now, s.looked = found, time.Now()
	for _, image := range found {
		s.known[image.digest] = image
	}
}

// current returns what the names stand for, asking the engine where what is
// known is older than age: an image may be rebuilt while the gateway runs.
func (s *images) current(ctx context.Context, age time.Duration) (map[string]imageState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.looked) < age {
		return s.now, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	found, err := resolveImages(ctx, s.cli, s.list)
	if err != nil {
		return nil, unavailable(err)
	}
	s.learn(found)
	return found, nil
}

// byDigest returns the image that a grant names. One whose name has moved on
// since the decision is still the one that was granted.
func (s *images) byDigest(ctx context.Context, digest string) (imageState, error) {
	s.mu.Lock()
	image, ok := s.known[digest]
	s.mu.Unlock()
	if ok {
		return image, nil
	}
	if _, err := s.current(ctx, imagesAge); err != nil {
		return imageState{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if image, ok = s.known[digest]; !ok {
		return imageState{}, fmt.Errorf("the granted image %s is not one that is configured", digest)
	}
	return image, nil
}

// keepImages looks at the images from time to time until ctx ends, so that no
// execution waits for that.
func (e *Executor) keepImages(ctx context.Context) {
	tick := time.NewTicker(imagesAge)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		// An engine that is not there is looked for by who needs it.
		if engine := e.engines.known(); engine != nil {
			if _, err := engine.images.current(ctx, imagesAge); err != nil {
				e.engines.doubt(ctx, engine, err)
			}
		}
	}
}

// images asks for what the names of images stand for now.
func (e *Executor) images(ctx context.Context) (map[string]imageState, error) {
	engine, err := e.engines.get(ctx)
	if err != nil {
		return nil, err
	}
	found, err := engine.images.current(ctx, imagesMaxAge)
	if err != nil {
		e.engines.doubt(ctx, engine, err)
	}
	return found, err
}

// Digests returns what every known image stands for now, by name: what policy
// sees as data.images. An image that is rebuilt shows within seconds.
func (e *Executor) Digests(ctx context.Context) (map[string]string, error) {
	found, err := e.images(ctx)
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for name, image := range found {
		digests[name] = image.digest
	}
	return digests, nil
}

// Resolve returns the image that a request means: the one it names, or the
// first that has a driver of its language. Its errors are of KindNotFound for a
// name or language that is not known, and KindUnavailable where the engine
// cannot be asked.
func (e *Executor) Resolve(ctx context.Context, language, image string) (execution.Image, error) {
	configured, err := e.choose(language, image)
	if err != nil {
		return execution.Image{}, err
	}
	found, err := e.images(ctx)
	if err != nil {
		return execution.Image{}, err
	}
	// An image that the engine does not have has no digest, and policy denies it.
	return execution.Image{Name: configured.Name, Digest: found[configured.Name].digest}, nil
}

func (e *Executor) choose(language, name string) (Image, error) {
	for _, image := range e.cfg.Images {
		_, speaks := image.Languages[language]
		if name == image.Name && (language == "" || speaks) || name == "" && speaks {
			return image, nil
		}
	}
	var names, languages []string
	for _, image := range e.cfg.Images {
		names = append(names, image.Name)
		languages = slices.AppendSeq(languages, maps.Keys(image.Languages))
	}
	slices.Sort(languages)
	detail := fmt.Sprintf("There is no image %q that runs language %q.", name, language)
	switch {
	case name == "":
		detail = fmt.Sprintf("There is no language %q.", language)
	case language == "":
		detail = fmt.Sprintf("There is no image %q.", name)
	}
	return Image{}, &execution.Error{
		Kind: execution.KindNotFound,
		Detail: fmt.Sprintf("%s Images are: %s. Languages are: %s.", detail,
			strings.Join(names, ", "), strings.Join(slices.Compact(languages), ", ")),
	}
}
