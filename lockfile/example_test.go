package lockfile_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/recordstore/recordstore/lockfile"
)

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	f, err := lockfile.Open(filepath.Join(dir, "LOCK"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	l, err := f.Lock(context.Background(), "deploy")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlock()

	// Another goroutine, or another process, waits for a while.
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = f.Lock(ctx, "backup")
	var held *lockfile.HeldError
	if errors.As(err, &held) {
		fmt.Println("held by us:", held.Holder.PID == os.Getpid())
		fmt.Println("held for:", held.Holder.Purpose)
		fmt.Println("gave up:", errors.Is(err, context.DeadlineExceeded))
	}
	// Output:
	// held by us: true
	// held for: deploy
	// gave up: true
}
