package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// signals calls a function for the first signal that asks the process to end.
// The next one ends it at once, as without us: a store survives that, but the
// answer whether a change was made is lost.
type signals struct {
	ch    chan os.Signal
	done  chan struct{} // closed by stop
	ended chan struct{} // closed when the function has been called, or never will be
	sig   *signalError  // the signal, if one came; set before ended is closed
}

// endingSignals are the signals that ask a process to end, less those that
// whoever started us wants ignored, as nohup does. Only of SIGHUP and SIGINT that is
// known: Go has caught all others before we run, and does not tell what they were. So
// a command that we start has these as usual.
func endingSignals() []os.Signal {
	var list []os.Signal
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(sig) {
			list = append(list, sig)
		}
	}
	return list
}

func catchSignals(caught func(signalError)) *signals {
	s := &signals{ch: make(chan os.Signal, 1), done: make(chan struct{}), ended: make(chan struct{})}
	if list := endingSignals(); len(list) > 0 { // none would mean all
		signal.Notify(s.ch, list...)
	}
	go func() {
		defer close(s.ended)
		var sig os.Signal
		select {
		case sig = <-s.ch:
			signal.Stop(s.ch)
		case <-s.done:
			select {
			case sig = <-s.ch: // it came before the end
			default:
				return
			}
		}
		s.sig = &signalError{sig.(syscall.Signal)}
		caught(*s.sig)
	}()
	return s
}

// came returns the signal that was caught, nil if none was.
func (s *signals) came() *signalError {
	select {
	case <-s.ended:
		return s.sig
	default:
		return nil
	}
}

// stop gives the signals back their ordinary effect. For one that came before,
// the function has been called when it returns.
func (s *signals) stop() {
	signal.Stop(s.ch)
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	<-s.ended
}

// interruptible returns a context that a signal ends, for work that would leave
// processes and files behind if the process just ended, and what to call when
// that is over.
func interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(background)
	sigs := catchSignals(func(err signalError) { cancel(err) })
	return ctx, func() {
		sigs.stop()
		cancel(nil)
	}
}

// interrupted returns what ended the context if that may be why the work under
// it failed with err, or else err.
func interrupted(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// endOfInterrupt ends the process of SIGINT, as if it had not been caught. A shell
// that has had a Ctrl-C too ends a loop only if that is what the command ended of, and
// not if it said so by its status: then it may have meant to go on. Other signals a
// terminal does not send to the shell of a loop, or it ends of them itself.
//
// It returns if that cannot be.
func endOfInterrupt() {
	if signal.Ignored(syscall.SIGINT) {
		return
	}
	signal.Reset(syscall.SIGINT)
	if syscall.Kill(os.Getpid(), syscall.SIGINT) == nil {
		time.Sleep(time.Second) // another thread may get it, in a moment
	}
}
