//! Allowance of work for the tools of one turn. Everything that grows with
//! what a user pasted is charged here before it is done.

/// Remaining allowance. Shared by all documents of a turn.
#[derive(Debug)]
pub struct Budget {
    nodes: usize,
    steps: usize,
    bytes: usize,
}

/// The allowance is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is too large, or its references lead too far: remove operations that are not needed")]
pub struct Exhausted;

impl Default for Budget {
    /// Three times what the largest public documents need.
    fn default() -> Self {
        Self { nodes: 250_000, steps: 1_000_000, bytes: 16 * 1024 * 1024 }
    }
}

impl Budget {
    /// Charges one value of a parsed document.
    ///
    /// # Errors
    /// If the allowance is used up.
    pub fn node(&mut self) -> Result<(), Exhausted> {
        take(&mut self.nodes, 1)
    }

    /// Charges steps: values visited, references followed.
    ///
    /// # Errors
    /// If the allowance is used up.
    pub fn steps(&mut self, count: usize) -> Result<(), Exhausted> {
        take(&mut self.steps, count)
    }

    /// Charges bytes copied out of a document.
    ///
    /// # Errors
    /// If the allowance is used up.
    pub fn copy(&mut self, bytes: usize) -> Result<(), Exhausted> {
        take(&mut self.bytes, bytes)
    }
}

/// Once something did not fit, nothing does: work that was refused is not
/// tried again in smaller pieces.
fn take(left: &mut usize, count: usize) -> Result<(), Exhausted> {
    match left.checked_sub(count) {
        Some(rest) => *left = rest,
        None => {
            *left = 0;
            return Err(Exhausted);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_leaves_nothing() {
        let mut budget = Budget { nodes: 1, steps: 10, bytes: 10 };
        assert_eq!(budget.steps(10), Ok(()));
        assert_eq!(budget.steps(1), Err(Exhausted));
        assert_eq!((budget.copy(11), budget.copy(1)), (Err(Exhausted), Err(Exhausted)));
        assert_eq!((budget.node(), budget.node()), (Ok(()), Err(Exhausted)));
    }
}
