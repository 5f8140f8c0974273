package main

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// mostCompletions bounds the keys offered for completion: more would not be
// read by anyone, and are slow to print.
const mostCompletions = 200

var shells = []string{"bash", "fish", "powershell", "zsh"}

func newCompletionCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|fish|powershell|zsh",
		Short: "Print the completion script for a shell",
		Long: `Completion prints a script that teaches the shell to complete verbs, flags, and
the keys of the store that --store or RECORDCTL_STORE names: at most 200 of them,
and none with characters that a shell interprets.

  bash        source <(recordctl completion bash)
  fish        recordctl completion fish | source
  powershell  recordctl completion powershell | Out-String | Invoke-Expression
  zsh         source <(recordctl completion zsh)

Put the line into the shell's start-up file. bash needs the package
bash-completion, zsh needs compinit.`,
		Example:   `  source <(recordctl completion bash)`,
		ValidArgs: shells,
		Args:      arguments("SHELL"),
		RunE: a.verb(func(cmd *cobra.Command, args []string) error {
			var err error
			switch root := cmd.Root(); args[0] {
			case "bash":
				err = root.GenBashCompletionV2(a.out, true)
			case "fish":
				err = root.GenFishCompletion(a.out, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(a.out)
			case "zsh":
				err = root.GenZshCompletion(a.out)
			default:
				return usagef("the shells are "+strings.Join(shells, ", "), "completion: unknown shell %q", args[0])
			}
			if err != nil {
				return a.outputError(err)
			}
			return nil
		}),
	}
}

// completeKey offers keys of the store for the first argument. It only reads,
// and offers nothing where there is no store.
func (a *app) completeKey(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	s, err := a.openRead(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer s.Close()
	sn, err := s.Snapshot(background)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer sn.Close()
	var keys []cobra.Completion
	for rec, err := range sn.Prefix(prefix) {
		if err != nil || len(keys) == mostCompletions {
			break
		}
		if isPlainKey(rec.Key) {
			keys = append(keys, rec.Key)
		}
	}
	return keys, cobra.ShellCompDirectiveNoFileComp
}

// isPlainKey reports whether a shell takes the key as it is. bash puts what
// several candidates have in common on the command line without quoting it, so
// that of other keys "$(command)" would be one. A dash at the beginning makes a
// flag of a key.
func isPlainKey(key string) bool {
	if key == "" || key[0] == '-' || displayKey(key) != key {
		return false
	}
	for _, r := range key {
		if r < utf8.RuneSelf && !strings.ContainsRune(plainKeyChars, r) {
			return false
		}
	}
	return true
}

const plainKeyChars = lockNameChars + "/:@%+,="
