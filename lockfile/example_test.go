package lockfile_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
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

func ExampleFile_Do() {
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

	err = f.Do(context.Background(), "deploy", func(ctx context.Context) error {
		fmt.Println("deploying")
		// Somewhere below, somebody does not know that we have the lock already.
		err := f.Do(ctx, "backup", func(context.Context) error { return nil })
		fmt.Println("would wait for ourselves:", errors.Is(err, lockfile.ErrNested))

		// An administrator removes the lock file.
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		<-ctx.Done() // within about a second
		return errors.New("deployed by half")
	})
	fmt.Println("lost:", errors.Is(err, lockfile.ErrReplaced))
	// Output:
	// deploying
	// would wait for ourselves: true
	// lost: true
}

func ExampleLockAll() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var accounts []*lockfile.File
	for _, name := range []string{"alice", "bob"} {
		f, err := lockfile.Open(filepath.Join(dir, name), nil)
		if err != nil {
			log.Fatal(err)
		}
		defer f.Close()
		accounts = append(accounts, f)
	}

	// From Alice to Bob, and from Bob to Alice at the same time.
	transfer := func(from, to *lockfile.File) error {
		locks, err := lockfile.LockAll(context.Background(), "transfer", from, to)
		if err != nil {
			return err
		}
		// ...
		return locks.Unlock()
	}
	done := make(chan error)
	go func() { done <- transfer(accounts[0], accounts[1]) }()
	go func() { done <- transfer(accounts[1], accounts[0]) }()
	fmt.Println(<-done, <-done)
	// Output: <nil> <nil>
}

func ExampleLock_Inherit() {
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
	l, err := f.Lock(context.Background(), "work in the background")
	if err != nil {
		log.Fatal(err)
	}

	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe() // cat ends when this is closed
	if err != nil {
		log.Fatal(err)
	}
	if err := l.Inherit(cmd); err != nil {
		log.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	if err := l.Unlock(); err != nil { // or end; the lock is the child's now
		log.Fatal(err)
	}
	_, err = f.TryLock("")
	fmt.Println("locked by the child:", errors.Is(err, lockfile.ErrLocked))

	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		log.Fatal(err)
	}
	l, err = f.TryLock("")
	fmt.Println("free:", err == nil)
	if err == nil {
		l.Unlock()
	}
	// Output:
	// locked by the child: true
	// free: true
}
