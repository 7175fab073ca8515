//! Transactions: etcd's rules for comparisons, one number for all changes.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::page::Room;
use crate::store::{Author, Store};
use crate::{Compare, Outcome, Record, Relation, Target, Txn, TxnOp, TxnResult};

impl Compare {
    /// Whether it holds for the record of its name.
    fn holds(&self, record: Option<&Record>) -> bool {
        let number = |there: fn(&Record) -> u64| record.map_or(0, there);
        let ordering = match (&self.target, record) {
            (Target::Version(given), _) => number(|record| record.version).cmp(given),
            (Target::Created(given), _) => number(|record| record.created).cmp(given),
            (Target::Modified(given), _) => number(|record| record.modified).cmp(given),
            (Target::Lease(given), _) => number(|record| record.lease).cmp(given),
            (Target::Value(given), Some(record)) => record.value.cmp(given),
            (Target::Value(_), None) => return false,
        };
        match self.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::Greater => ordering == Ordering::Greater,
            Relation::Less => ordering == Ordering::Less,
            Relation::NotEqual => ordering != Ordering::Equal,
        }
    }
}

impl Store<'_, '_> {
    pub(crate) fn txn(&mut self, author: Author<'_>, txn: Txn) -> Result<Outcome, u16> {
        let holds = |compare: &Compare| compare.holds(self.record(&compare.name).as_ref());
        let succeeded = txn.compare.iter().all(holds);
        let operations = if succeeded { txn.success } else { txn.failure };
        let mut room = Room::for_outcome();
        let mut results = Vec::with_capacity(operations.len());
        for operation in operations {
            room.take_result()?;
            results.push(self.txn_op(author, operation, &mut room)?);
        }
        Ok(Outcome::Txn { number: self.number, succeeded, results })
    }

    fn txn_op(&mut self, author: Author<'_>, operation: TxnOp, room: &mut Room) -> Result<TxnResult, u16> {
        match operation {
            TxnOp::Put { name, value, lease, previous } => {
                let previous = self.put(author, &name, value, lease)?.filter(|_| previous);
                if let Some(record) = &previous {
                    room.take(record)?;
                }
                Ok(TxnResult::Put { previous })
            }
            TxnOp::DeleteRange(delete) => {
                let (deleted, previous) = self.delete_range(author, &delete, room)?;
                Ok(TxnResult::Deleted { deleted, previous })
            }
            TxnOp::Get { range, limit } => Ok(TxnResult::Got(self.page(&range, limit, room)?)),
        }
    }
}
